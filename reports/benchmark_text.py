"""A night of a benchmark as a table for a terminal or in Markdown, and the trend of the last nights."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from cache.printable import printable
from pipeline.benchmarks.matrix import Matrix
from pipeline.text_table import aligned, code, escaped, markdown, or_dash
from reports.benchmark import Night
from reports.benchmark_history import FAILED, NightRow, night_label
from reports.benchmark_judging import AGAINST, ENOUGH_NIGHTS, USUAL_NIGHTS, JudgedRow, NightTest, figures_of, with_unit

EMBEDDED_BYTES = 300_000  # largest plot that is embedded in Markdown; of a larger one only the path is given


def night_text(night: Night) -> str:
    """Return the problems, the table and the notes, for a terminal."""
    parts = [_heading(night), *(f"  {printable(line)}" for line in night.problems), "", aligned(_cells(night))]
    notes = [*map(printable, _all_notes(night))]
    parts += ["", *notes] if notes else []
    plot = [printable(f"plot: {night.plot}")] if night.plot else []
    return "\n".join([*parts, "", _legend(night.matrix), *plot])


def night_markdown(night: Night) -> str:
    """Return the same in Markdown, with the plot embedded."""
    parts = [
        f"# {escaped(_heading(night))}",
        "",
        *(f"- {escaped(line)}" for line in night.problems),
        "",
        markdown(_cells(night)),
    ]
    parts += ["", *(f"- {escaped(note)}" for note in _all_notes(night)), "", _legend(night.matrix)]
    if night.plot is not None:
        png = night.plot.read_bytes()
        if len(png) <= EMBEDDED_BYTES:
            parts += ["", f"![trend](data:image/png;base64,{base64.b64encode(png).decode()})"]
        parts += ["", f"Plot: {code(str(night.plot))}"]
    return "\n".join(parts)


def trend_text(matrix: Matrix, rows: Sequence[NightRow], n_nights: int) -> str:
    """Return the last nights of each setting, one line per night, the newest last."""
    nights = sorted({row.night for row in rows})[-n_nights:]
    settings: dict[str, list[NightRow]] = {}
    for row in rows:
        if row.night in nights:
            settings.setdefault(row.name, []).append(row)
    if not settings:
        return f"no night of {matrix.name!r} yet: `sevila benchmark {matrix.name}` runs one"
    header = ["  night (UTC)", "%", "questions/s", "peak", "GPU", "recipe"]
    return "\n\n".join(
        f"{printable(name)}\n{aligned([header, *map(_trend_cells, nights_of)])}" for name, nights_of in settings.items()
    )


def _trend_cells(row: NightRow) -> list[str]:
    percent = "failed" if row.status == FAILED else or_dash(row.metric_percent, "{:.1f}")
    figures = [_figure(name, value) for name, value in figures_of(row).items()]
    return [f"  {night_label(row.night)}", percent, *figures, row.recipe_fingerprint[:6]]


def _figure(name: str, value: float | None) -> str:
    return with_unit(name, value) if value else "-"


def _heading(night: Night) -> str:
    n_regressions = len(night.regressions)
    verdict = f"{n_regressions} regression{'s' if n_regressions > 1 else ''}" if n_regressions else "no regression"
    if all(judged.row.status == FAILED for judged in night.rows):
        verdict = "nothing was measured"
    failed = f", {len(night.failures)} failed" if night.failures else ""
    return f"{night.matrix.name}, night {night_label(night.night)} UTC: {verdict}{failed}"


def _cells(night: Night) -> list[list[str]]:
    header = ["", "%", "questions", "since previous", "p", "since best", "p", "questions/s", "peak memory", "GPU"]
    return [header, *(_row_cells(judged) for judged in night.rows)]


def _row_cells(judged: JudgedRow) -> list[str]:
    row = judged.row
    if row.status == FAILED:
        return [row.name, "failed", *["-"] * 8]
    changes = {figure.name: f" ({figure.change_percent:+.0f} %)" for figure in judged.figures}
    tests = [cell for name in AGAINST for cell in _test_cells(judged.tests[name])]
    figures = [_figure(name, value) + changes.get(name, "") for name, value in figures_of(row).items()]
    return [row.name, or_dash(row.metric_percent, "{:.1f}"), str(row.n_questions or 0), *tests, *figures]


def _test_cells(test: NightTest | None) -> list[str]:
    if test is None or test.row is None:
        return ["-", "-"]
    return [f"{test.row.difference_points:+.1f}", f"{test.p_corrected:.2g}"]


def _all_notes(night: Night) -> list[str]:
    """Return every note once, with the names of its settings."""
    settings_of: dict[str, list[str]] = {note: [] for note in night.notes}
    for judged in night.rows:
        problems = [
            f"not compared with night {night_label(test.night)}: {test.problem}"
            for test in judged.tests.values()
            if test is not None and test.problem
        ]
        for note in [*judged.notes, *dict.fromkeys(problems)]:
            settings_of.setdefault(note, []).append(judged.row.name)
    n_rows = len(night.rows)
    return [
        f"{'all' if len(names) == n_rows > 1 else '; '.join(names)}: {note}" if names else note
        for note, names in settings_of.items()
    ]


def _legend(matrix: Matrix) -> str:
    tolerance = matrix.tolerance
    return (
        f"p: McNemar's exact test with Holm's correction over the rows; a loss with p below {matrix.alpha:g} is a regression. "
        f"In brackets: change from the median of up to {USUAL_NIGHTS} nights on this host and device; after {ENOUGH_NIGHTS} "
        f"nights, {tolerance.throughput_percent:g} % fewer questions/s or {tolerance.peak_memory_percent:g} % more memory "
        "is a regression."
    )
