"""The report's plots, as SVG that uses the colours of the page's light or dark theme."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape

from cache.fingerprint import fingerprint
from cache.printable import printable
from pipeline.metrics.accuracy import AccuracyRow
from pipeline.metrics.calibration import CalibrationBin
from reports.page.facts import TrainingCourse
from reports.page.numbers import Gain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Placeholder colours, which are replaced by CSS variables of the page in the SVG.
INK, MUTED, LINE, A, B, C = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05", "#0a0b06"
ON_THE_PAGE = {INK: "--ink", MUTED: "--muted", LINE: "--line", A: "--a", B: "--b", C: "--c"}
SETTINGS: dict[Any, Any] = {
    "text.parse_math": False,  # names from data sets may contain $
    "svg.fonttype": "none",  # keep text as text, for search, screen readers and the page's font
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 9,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.4,
}
WIDTH_INCHES = 4.6  # a wider plot would have too small letters on a phone
LEGEND_COLUMNS = 2  # more would cut off long names
LABEL_CHARACTERS = 26  # in a line of a row's label
LOSS_POINTS = 60  # of a smoothed loss curve
Curves = Mapping[str, Sequence[tuple[float, float]]]


def types_figure(settings: Mapping[str, Sequence[AccuracyRow]]) -> Markup | None:
    """Draw accuracy by type of question with its interval, for one or two settings; None unless there are several types."""
    names = list(
        dict.fromkeys(row.name for rows in settings.values() for row in rows if row.accuracy_percent is not None)
    )
    if len(names) < 2:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, (setting, rows) in enumerate(settings.items()):
            measured = [row for row in rows if row.accuracy_percent is not None]
            offset = 0.16 * (2 * number - len(settings) + 1)
            y = [names.index(row.name) + offset for row in measured]
            percents = [row.accuracy_percent or 0.0 for row in measured]
            _intervals(axes, percents, y, [row.interval() for row in measured], (A, B)[number], setting)
        _label_rows(axes, names)
        axes.set_xlabel("right, %")
        axes.set_xlim(0, 100)
        _legend(axes, len(settings))

    return _svg("types", (WIDTH_INCHES, _height(names, 0.42)), draw, "Accuracy by question type, with 95 % intervals")


def gains_figure(gains: Sequence[Gain]) -> Markup | None:
    """Draw the gain of each step of the chain with its paired interval; None without a step."""
    if not gains:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        rows = [gain.paired for gain in gains]
        bounds = [None if row.low_points is None else (row.low_points, row.high_points) for row in rows]
        _intervals(axes, [row.difference_points for row in rows], range(len(rows)), bounds, A, "")
        axes.axvline(0, color=MUTED, linewidth=1)
        _label_rows(axes, [gain.step for gain in gains])
        axes.set_xlabel("points gained (paired, 95 % interval)")

    return _svg(
        "gains",
        (WIDTH_INCHES, _height([gain.step for gain in gains], 0.4)),
        draw,
        "Gain of each step of the chain, in points",
    )


def training_figure(course: TrainingCourse) -> Markup:
    """Draw the loss and the held-out figures of a training by step."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        steps = np.array([step.step for step in course.steps])
        losses = np.array([step.loss for step in course.steps])
        groups = np.array_split(np.arange(len(steps)), min(LOSS_POINTS, len(steps)))
        means = [losses[group].mean() for group in groups]
        axes.plot([steps[group].mean() for group in groups], means, color=A, label="loss")
        for colour, (name, values) in zip((B, C, MUTED), course.figures.items(), strict=False):
            axes.plot(*zip(*values, strict=True), color=colour, marker=".", label=name.replace("_", " "))
        _from_zero(axes)
        axes.set_xlabel("step")
        n_names = 1 + len(course.figures)
        axes.set_title(printable(course.name), pad=10 + 12 * -(-n_names // LEGEND_COLUMNS))
        _legend(axes, n_names)

    return _svg(
        f"training-{fingerprint(course.name)[:8]}",
        (3.4, 2.5),
        draw,
        f"{course.name}: loss, and figures on held-out videos",
    )


def calibration_figure(settings: Mapping[str, Sequence[CalibrationBin]]) -> Markup | None:
    """Draw the share of right answers by the probability of the chosen option; None without answers."""
    if not any(item.n_answers for bins in settings.values() for item in bins):
        return None

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        for colour, (setting, bins) in zip((A, B), settings.items(), strict=False):
            points = [(100 * item.mean_probability, 100 * item.share_right) for item in bins if item.n_answers]
            above.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4, label=setting)
            counts = [(50 * (item.low + item.high), item.n_answers) for item in bins]
            below.plot(*zip(*counts, strict=True), color=colour)
        above.set_ylabel("right, %")
        above.set_ylim(-2, 102)
        below.set_ylabel("answers")
        _from_zero(below)
        below.set_xlabel("probability of the chosen option, %")
        below.set_xlim(0, 100)
        _legend(above, 2)

    return _svg("calibration", (WIDTH_INCHES, 3.6), draw, "Share of right answers by probability of the chosen option")


def position_figure(scores: Curves, keyframes: Curves, score_label: str) -> Markup | None:
    """Draw scores and the share of keyframes by position in the clip; None if there are neither."""
    if not any(scores.values()) and not any(keyframes.values()):
        return None

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True)
        for axes, lines in ((above, scores), (below, keyframes)):
            for colour, (name, points) in zip((A, B, C, MUTED), lines.items(), strict=False):
                axes.plot(*zip(*points, strict=True), color=colour, label=name, marker=".", markersize=4)
        above.set_ylabel(score_label)
        _from_zero(above)
        below.set_ylabel("keyframes, %")
        _from_zero(below)
        below.set_xlim(0, 100)
        below.set_xlabel("position in the clip, %")
        _legend(above if any(scores.values()) else below, 2)

    return _svg(
        "positions",
        (WIDTH_INCHES, 3.6),
        draw,
        "Mean score of frames, and share of keyframes, by position in the clip",
    )


def _intervals(
    axes: Axes, values: Sequence[float], y: Sequence[float] | range, bounds: Sequence[Any], colour: str, label: str
) -> None:
    low = [value - (bound[0] if bound else value) for value, bound in zip(values, bounds, strict=True)]
    high = [(bound[1] if bound else value) - value for value, bound in zip(values, bounds, strict=True)]
    errors = np.clip([low, high], 0, None)
    axes.errorbar(values, y, xerr=errors, fmt="o", markersize=4, color=colour, linewidth=1.4, label=label or None)


def _label_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), list(map(_wrapped, names)), color=INK)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)


def _wrapped(name: str) -> str:
    return "\n".join(wrap(printable(name), LABEL_CHARACTERS, break_on_hyphens=False))


def _height(names: Sequence[str], min_row_inches: float) -> float:
    """Return the height in inches of a plot with a row for each name."""
    n_lines = max((_wrapped(name).count("\n") + 1 for name in names), default=1)
    return 0.8 + max(min_row_inches, 0.16 * n_lines) * len(names)


def _from_zero(axes: Axes) -> None:
    axes.set_ylim(0, 1.05 * axes.get_ylim()[1])


def _legend(axes: Axes, n_names: int) -> None:
    """Add a legend above the axes, unless there is only one line."""
    if n_names > 1:
        spaces: dict[str, Any] = {"borderaxespad": 0.2, "columnspacing": 1.2, "handlelength": 1.4}
        handles, names = axes.get_legend_handles_labels()
        anchor: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1)}
        axes.legend(handles, list(map(_wrapped, names)), fontsize=8, ncols=LEGEND_COLUMNS, **anchor, **spaces)


def _svg(name: str, inches: tuple[float, float], draw: Callable[[Figure], None], label: str) -> Markup:
    """Return a figure as an SVG element; `label` describes it for screen readers."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # pyplot would need a display and keep global state

    with rc_context({**SETTINGS, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the page's font has glyphs that matplotlib's lacks
        figure = Figure(figsize=inches, layout="constrained")
        figure.patch.set_alpha(0)
        draw(figure)
        for axes in figure.axes:
            axes.patch.set_alpha(0)
        stream = StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    for colour, variable in ON_THE_PAGE.items():
        text = text.replace(colour, f"var({variable})")
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    view = re.search(r'viewBox="[^"]+"', body)
    assert view is not None
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    style = f"max-width:{1.25 * inches[0]}in"
    start = f'<svg class="plot" role="img" aria-label="{escape(label)}" style="{style}" {view[0]} {namespaces}>'
    prefix = f"{name}-{fingerprint(body)[:8]}-"  # makes ids unique on the page, where two runs have plots of one name
    content = re.sub(r'(id="|href="#|url\(#)', lambda match: match[1] + prefix, body[body.index(">") + 1 :])
    return Markup(start + content)
