"""A sweep as tables: every cell with its paired test against uniform frames, the power of the test, and groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cache.printable import printable
from pipeline.metrics.comparison import ALPHA, PairedRow, group_rows, holm, power
from pipeline.text_table import Table, aligned, escaped, markdown, or_dash
from reports.sweep import CellRun
from reports.sweep_grid import UNIFORM, Cell

N_NAMES = 3  # left-aligned columns of names
HEAD = ["keyframes", "scored by", "answered by", "k", "accuracy (95 %)", "moment recall", "minus uniform (95 %)"]
HEAD += ["only uniform", "only this", "p", "p, Holm", "power"]


def sweep_report(runs: Sequence[CellRun], command: str, points: float) -> str:
    """Return the report in Markdown; `points` is the true difference for which the power is computed."""
    parts = [f"# Keyframes compared\n\n```bash\n{printable(command)}\n```", how_to_read(points)]
    parts += filter(None, [sweep_table(runs, points, markdown), escaped(unanswered(runs))])
    groups = group_table(runs, markdown)
    parts += [f"## Minus uniform, by group\n\n{groups}"] if groups else []
    problems = [f"- {escaped(run.cell.name)}: {escaped(run.problem)}" for run in runs if run.problem]
    parts += ["## Without numbers\n\n" + "\n".join(problems)] if problems else []
    return "\n\n".join(parts) + "\n"


def sweep_text(runs: Sequence[CellRun], points: float, table: Table = aligned) -> str:
    """Return the tables for a terminal, their explanation, and the problems of cells without numbers."""
    problems = [f"no numbers for {run.cell.name}: {run.problem}" for run in runs if run.problem]
    parts = [sweep_table(runs, points, table), unanswered(runs), group_table(runs, table), how_to_read(points)]
    parts += ["\n".join(problems)]
    return "\n\n".join(filter(None, parts))


def sweep_content(runs: Sequence[CellRun]) -> list[dict[str, Any]]:
    """Return every cell as JSON values: the id and headline of its metrics, and its paired rows against uniform frames."""
    return [
        {
            **vars(run.cell),
            "metrics": run.metrics and run.metrics.id,
            "headline": run.metrics and vars(run.metrics.headline()),
            "moment_recall_percent": run.recall_percent,
            "against_uniform": [vars(row) for row in run.against_uniform],
            "problem": run.problem,
        }
        for run in runs
    ]


def how_to_read(points: float) -> str:
    """Return the explanation of the columns."""
    return (
        "Accuracies in percent, differences in points. Each row is compared with uniform frames of the same number and answerer "
        "on the same questions: the paired interval resamples videos; p is McNemar's exact test (which treats questions as "
        "independent), with Holm's correction over all rows. Only uniform / only this: questions that only one of the two "
        f"answers correctly. Power: the probability of p below {ALPHA:g} before correction, for a true difference of {points:g} "
        "points with the same number of questions and of differing answers."
    )


def sweep_table(runs: Sequence[CellRun], points: float, table: Table) -> str:
    """Return one row per cell, in the order of the sweep."""
    tested = [run for run in runs if run.against_uniform]
    p_values = holm([_headline(run).p_value for run in tested])
    corrected = {run.cell: p for run, p in zip(tested, p_values, strict=True)}
    lines = [[*_cell_names(run.cell), *_numbers(run, corrected, points)] for run in runs if not run.problem]
    return table([HEAD, *lines], N_NAMES)


def unanswered(runs: Sequence[CellRun]) -> str:
    """Return the number of unanswered questions, by cell if it differs; "" if all were answered."""
    headlines = {run.cell.name: run.metrics.headline() for run in runs if run.metrics is not None}
    counts = {name: f"{row.n_unanswered} of {row.n_questions}" for name, row in headlines.items() if row.n_unanswered}
    if not counts:
        return ""
    text = "; ".join(f"{name}: {count}" for name, count in counts.items())
    if len(counts) == len(headlines) and len(set(counts.values())) == 1:
        text = f"{next(iter(counts.values()))} in each cell"
    return f"Unanswered, counted as wrong: {text}."


def group_table(runs: Sequence[CellRun], table: Table) -> str:
    """Return the differences from uniform frames in each group of questions; "" if there are no groups."""
    names = list(dict.fromkeys(row.name for run in runs for row in group_rows(run.against_uniform)))
    lines = []
    for run in runs:
        by_group = {row.name: _difference(row) for row in group_rows(run.against_uniform)}
        lines += [[*_cell_names(run.cell), *(by_group.get(name, "-") for name in names)]] if by_group else []
    return table([[*HEAD[:4], *names], *lines], N_NAMES) if lines else ""


def _cell_names(cell: Cell) -> list[str]:
    return [cell.selector, cell.scorer or "-", cell.answerer or "-", str(cell.k)]


def _numbers(run: CellRun, corrected: Mapping[Cell, float], points: float) -> Iterator[str]:
    assert run.metrics is not None
    row = run.metrics.headline()
    interval = row.interval()
    yield or_dash(row.accuracy_percent, "{:.1f}") + (f" ({interval[0]:.1f} - {interval[1]:.1f})" if interval else "")
    yield or_dash(run.recall_percent, "{:.1f}")
    if run.cell.selector == UNIFORM:
        yield from ["-"] * 6
        return
    paired = _headline(run)
    yield _difference(paired)
    yield from (str(paired.n_only_a), str(paired.n_only_b))
    yield or_dash(paired.p_value, "{:.2g}")
    yield f"{corrected[run.cell]:.2g}{' *' if corrected[run.cell] < ALPHA else ''}"
    yield f"{100 * power(paired, points):.0f} %"


def _headline(run: CellRun) -> PairedRow:
    return next(row for row in run.against_uniform if row.is_headline)


def _difference(row: PairedRow) -> str:
    interval = "" if row.low_points is None else f" ({row.low_points:+.1f} to {row.high_points:+.1f})"
    return f"{row.difference_points:+.1f}{interval}"
