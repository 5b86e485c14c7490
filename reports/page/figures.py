"""The report's plots, as SVG that takes its colours from the page, so that they are right in light and in dark."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
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
from reports.results import headline_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that nobody draws with; in the SVG they become the page's own.
INK, MUTED, LINE, A, B, C = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05", "#0a0b06"
ON_THE_PAGE = {INK: "--ink", MUTED: "--muted", LINE: "--line", A: "--a", B: "--b", C: "--c"}
SETTINGS: dict[Any, Any] = {
    "text.parse_math": False,  # names come from data sets
    "svg.fonttype": "none",  # text stays text: it is read aloud, searched, and has the page's face
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
WIDTH = 4.6  # inches; wider ones have letters too small for a phone
NAMES_A_LINE = 2  # of a legend, so that long ones are not cut off
LABEL_LETTERS = 26  # of a line beside a row
SMOOTHED_TO = 60  # points of a loss curve
Scores = Mapping[str, Sequence[tuple[float, float]]]


def types_figure(settings: Mapping[str, Sequence[AccuracyRow]]) -> Markup | None:
    """Draw accuracy by type of question with its interval, of one or two settings; None without several types."""
    names = list(
        dict.fromkeys(row.name for rows in settings.values() for row in rows if row.accuracy_percent is not None)
    )
    if len(names) < 2:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, (setting, rows) in enumerate(settings.items()):
            known = [row for row in rows if row.accuracy_percent is not None]
            offset = 0.16 * (2 * number - len(settings) + 1)
            places = [names.index(row.name) + offset for row in known]
            percents = [row.accuracy_percent or 0.0 for row in known]
            _intervals(axes, percents, places, [headline_interval(row) for row in known], (A, B)[number], setting)
        _named_places(axes, names)
        axes.set_xlabel("right, %")
        axes.set_xlim(0, 100)
        _legend(axes, len(settings))

    return _svg("types", (WIDTH, _height(names, 0.42)), draw, "Accuracy by type of question, with 95 % intervals")


def gains_figure(gains: Sequence[Gain]) -> Markup | None:
    """Draw what each step of the chain adds, with its paired interval; None without a step."""
    if not gains:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        rows = [gain.paired for gain in gains]
        bounds = [None if row.low_points is None else (row.low_points, row.high_points) for row in rows]
        _intervals(axes, [row.difference_points for row in rows], range(len(rows)), bounds, A, "")
        axes.axvline(0, color=MUTED, linewidth=1)
        _named_places(axes, [gain.step for gain in gains])
        axes.set_xlabel("points gained (paired, 95 % interval)")

    return _svg(
        "gains",
        (WIDTH, _height([gain.step for gain in gains], 0.4)),
        draw,
        "What each step of the chain adds, in points",
    )


def training_figure(course: TrainingCourse) -> Markup:
    """Draw loss and held-out figures of a training by step."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        steps = np.array([step.step for step in course.steps])
        losses = np.array([step.loss for step in course.steps])
        groups = np.array_split(np.arange(len(steps)), min(SMOOTHED_TO, len(steps)))
        means = [losses[group].mean() for group in groups]
        axes.plot([steps[group].mean() for group in groups], means, color=A, label="loss")
        for colour, (name, values) in zip((B, C, MUTED), course.figures.items(), strict=False):
            axes.plot(*zip(*values, strict=True), color=colour, marker=".", label=name.replace("_", " "))
        _from_zero(axes)
        axes.set_xlabel("step")
        n_names = 1 + len(course.figures)
        axes.set_title(printable(course.name), pad=10 + 12 * -(-n_names // NAMES_A_LINE))
        _legend(axes, n_names)

    return _svg(
        f"training-{fingerprint(course.name)[:8]}",
        (3.4, 2.5),
        draw,
        f"{course.name}: loss, and figures on held-out videos",
    )


def calibration_figure(settings: Mapping[str, Sequence[CalibrationBin]]) -> Markup | None:
    """Draw how often answers are right by the probability they were given with; None without answers."""
    if not any(each.n_answers for bins in settings.values() for each in bins):
        return None

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        for colour, (setting, bins) in zip((A, B), settings.items(), strict=False):
            known = [each for each in bins if each.n_answers]
            points = [(100 * each.mean_probability, 100 * each.share_right) for each in known]
            above.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4, label=setting)
            below.plot(
                *zip(*[(50 * (each.low + each.high), each.n_answers) for each in bins], strict=True), color=colour
            )
        above.set_ylabel("right, %")
        above.set_ylim(-2, 102)
        below.set_ylabel("answers")
        _from_zero(below)
        below.set_xlabel("probability of the chosen option, %")
        below.set_xlim(0, 100)
        _legend(above, 2)

    return _svg("calibration", (WIDTH, 3.6), draw, "Share of right answers by the probability they were given with")


def position_figure(scores: Scores, keyframes: Scores, what: str) -> Markup | None:
    """Draw how scores, and how many of the keyframes, fall over a clip from its beginning to its end; None without scores."""
    if not any(scores.values()) and not any(keyframes.values()):
        return None

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True)
        for axes, lines in ((above, scores), (below, keyframes)):
            for colour, (name, points) in zip((A, B, C, MUTED), lines.items(), strict=False):
                axes.plot(*zip(*points, strict=True), color=colour, label=name, marker=".", markersize=4)
        above.set_ylabel(what)
        _from_zero(above)
        below.set_ylabel("keyframes, %")
        _from_zero(below)
        below.set_xlim(0, 100)
        below.set_xlabel("place in the clip, %")
        _legend(above if any(scores.values()) else below, 2)

    return _svg(
        "positions",
        (WIDTH, 3.6),
        draw,
        "Mean score of the frames, and share of the keyframes, by place in the clip",
    )


def _intervals(
    axes: Axes, values: Sequence[float], places: Sequence[float] | range, bounds: Sequence[Any], colour: str, label: str
) -> None:
    low = [value - (bound[0] if bound else value) for value, bound in zip(values, bounds, strict=True)]
    high = [(bound[1] if bound else value) - value for value, bound in zip(values, bounds, strict=True)]
    errors = np.clip([low, high], 0, None)
    axes.errorbar(values, places, xerr=errors, fmt="o", markersize=4, color=colour, linewidth=1.4, label=label or None)


def _named_places(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), list(map(_wrapped, names)), color=INK)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)


def _wrapped(name: str) -> str:
    return "\n".join(wrap(printable(name), LABEL_LETTERS, break_on_hyphens=False))


def _height(names: Sequence[str], least: float) -> float:
    """Return how high, in inches, a plot with so many named rows is."""
    n_lines = max((_wrapped(name).count("\n") + 1 for name in names), default=1)
    return 0.8 + max(least, 0.16 * n_lines) * len(names)


def _from_zero(axes: Axes) -> None:
    axes.set_ylim(0, 1.05 * axes.get_ylim()[1])


def _legend(axes: Axes, n_names: int) -> None:
    """Put the names of the lines above the axes, where they cover nothing; none for a single line."""
    if n_names > 1:
        spaces: dict[str, Any] = {"borderaxespad": 0.2, "columnspacing": 1.2, "handlelength": 1.4}
        handles, names = axes.get_legend_handles_labels()
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1)}
        axes.legend(handles, list(map(_wrapped, names)), fontsize=8, ncols=NAMES_A_LINE, **place, **spaces)


def _svg(name: str, inches: tuple[float, float], draw: Any, about: str) -> Markup:
    """Return a figure as an SVG element; `about` is what a screen reader says of it."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # without pyplot: no window system is asked for, no global state kept

    with rc_context({**SETTINGS, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the page's face has the letter
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
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    most = f"max-width:{1.25 * inches[0]}in"
    start = f'<svg class="plot" role="img" aria-label="{escape(about)}" style="{most}" {view[0]} {spaces}>'
    name = f"{name}-{fingerprint(body)[:8]}"  # two runs have plots of one name
    ids = re.sub(r'(id="|href="#|url\(#)', lambda match: f"{match[1]}{name}-", body[body.index(">") + 1 :])
    return Markup(start + ids)
