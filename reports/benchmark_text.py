"""A night of a benchmark as text: a table for a terminal or in Markdown, and the trend of the last nights."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from cache.printable import printable
from pipeline.benchmarks.matrix import Matrix
from pipeline.text_table import aligned, code, escaped, markdown, or_dash
from reports.benchmark import Night
from reports.benchmark_history import FAILED, NightRow, shown
from reports.benchmark_judging import AGAINST, ENOUGH_NIGHTS, USUAL_NIGHTS, Judged, Paired, figures_of, with_unit

EMBEDDED_BYTES = 300_000  # of the plot in Markdown; a larger one is named by its path


def night_text(night: Night) -> str:
    """Return what is wrong, the table and the notes, for a terminal."""
    parts = [_heading(night), *(f"  {printable(line)}" for line in night.problems), "", aligned(_cells(night))]
    notes = [*map(printable, _all_notes(night))]
    parts += ["", *notes] if notes else []
    plot = [printable(f"plot: {night.plot}")] if night.plot else []
    return "\n".join([*parts, "", _how(night.matrix), *plot])


def night_markdown(night: Night) -> str:
    """Return the same in Markdown, with the plot inside."""
    parts = [
        f"# {escaped(_heading(night))}",
        "",
        *(f"- {escaped(line)}" for line in night.problems),
        "",
        markdown(_cells(night)),
    ]
    parts += ["", *(f"- {escaped(note)}" for note in _all_notes(night)), "", _how(night.matrix)]
    if night.plot is not None:
        picture = night.plot.read_bytes()
        if len(picture) <= EMBEDDED_BYTES:
            parts += ["", f"![trend](data:image/png;base64,{base64.b64encode(picture).decode()})"]
        parts += ["", f"Plot: {code(str(night.plot))}"]
    return "\n".join(parts)


def trend_text(matrix: Matrix, rows: Sequence[NightRow], n_nights: int) -> str:
    """Return the last nights of each setting, a line each, the newest at the end."""
    nights = sorted({row.night for row in rows})[-n_nights:]
    settings: dict[str, list[NightRow]] = {}
    for row in rows:
        if row.night in nights:
            settings.setdefault(row.name, []).append(row)
    if not settings:
        return f"no night of {matrix.name!r} yet: `sevila benchmark {matrix.name}` runs one"
    head = ["  night (UTC)", "%", "questions/s", "peak", "GPU", "recipe"]
    return "\n\n".join(
        f"{printable(name)}\n{aligned([head, *map(_trend_cells, line)])}" for name, line in settings.items()
    )


def _trend_cells(row: NightRow) -> list[str]:
    percent = "failed" if row.status == FAILED else or_dash(row.metric_percent, "{:.1f}")
    figures = [_figure(what, value) for what, value in figures_of(row).items()]
    return [f"  {shown(row.night)}", percent, *figures, row.recipe_fingerprint[:6]]


def _figure(what: str, value: float | None) -> str:
    return with_unit(what, value) if value else "-"


def _heading(night: Night) -> str:
    n_wrong = len(night.regressions)
    verdict = f"{n_wrong} regression{'s' if n_wrong > 1 else ''}" if n_wrong else "no regression"
    if all(judged.row.status == FAILED for judged in night.rows):
        verdict = "nothing was measured"
    failed = f", {len(night.failures)} failed" if night.failures else ""
    return f"{night.matrix.name}, night {shown(night.night)} UTC: {verdict}{failed}"


def _cells(night: Night) -> list[list[str]]:
    header = ["", "%", "questions", "since previous", "p", "since best", "p", "questions/s", "peak memory", "GPU"]
    return [header, *(_line(judged) for judged in night.rows)]


def _line(judged: Judged) -> list[str]:
    row = judged.row
    if row.status == FAILED:
        return [row.name, "failed", *["-"] * 8]
    changes = {speed.what: f" ({speed.change_percent:+.0f} %)" for speed in judged.speeds}
    tests = [cell for name in AGAINST for cell in _test_cells(judged.tests[name])]
    speeds = [_figure(what, value) + changes.get(what, "") for what, value in figures_of(row).items()]
    return [row.name, or_dash(row.metric_percent, "{:.1f}"), str(row.n_questions or 0), *tests, *speeds]


def _test_cells(test: Paired | None) -> list[str]:
    if test is None or test.row is None:
        return ["-", "-"]
    return [f"{test.row.difference_points:+.1f}", f"{test.p_corrected:.2g}"]


def _all_notes(night: Night) -> list[str]:
    """Return every note once, with the settings it is of."""
    settings_of: dict[str, list[str]] = {note: [] for note in night.notes}
    for judged in night.rows:
        problems = [
            f"not compared with night {shown(test.night)}: {test.problem}"
            for test in judged.tests.values()
            if test is not None and test.problem
        ]
        for note in [*judged.notes, *dict.fromkeys(problems)]:
            settings_of.setdefault(note, []).append(judged.row.name)
    every = len(night.rows)
    return [
        f"{'all' if len(names) == every > 1 else '; '.join(names)}: {note}" if names else note
        for note, names in settings_of.items()
    ]


def _how(matrix: Matrix) -> str:
    tolerance = matrix.tolerance
    return (
        f"p: McNemar's exact test after Holm's correction over the rows, worse below {matrix.alpha:g}. In brackets: against the "
        f"median of up to {USUAL_NIGHTS} nights on this host and device; from {ENOUGH_NIGHTS} nights on, worse beyond "
        f"{tolerance.throughput_percent:g} % fewer questions/s or {tolerance.peak_memory_percent:g} % more memory."
    )
