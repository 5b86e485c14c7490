"""The paper's tables as a page: measured beside published, which of the paper's orders hold, what it cost, what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from cache.printable import printable
from pipeline.text_table import escaped, markdown, or_dash
from reports.estimates import Estimate, difference, over_seeds, paired_difference, span, tally
from reports.needs import needs_text
from reports.paper import Paper, PaperColumn, PaperRow, PaperTable
from reports.paper_figures import AGAIN, cost_records, distinct, figure, n_samples, peak_gigabytes
from reports.reproduce import NOT_RUN, RowRun
from stages.evaluate import Metrics

Runs = Sequence[Sequence[RowRun]]  # of a table: for each row, what came of it on each subject

HEAD = ["row", "of", "published", "measured (95 %)", "difference (95 %)"]


def reproduction_text(paper: Paper, tables: Mapping[str, PaperTable], runs: Mapping[str, Runs], command: str) -> str:
    """Return the page for these tables; where nothing could be measured, only what is missing."""
    flat = {name: [run for of_row in of_table for run in of_row] for name, of_table in runs.items()}
    needs = needs_text(paper, flat)
    if needs and not any(run.is_measured for of_table in flat.values() for run in of_table):
        return needs + "\n"
    parts = [f"# The paper's tables, measured\n\n```bash\n{printable(command)}\n```", _how(flat, paper)]
    parts += [table_text(name, table, runs[name]) for name, table in tables.items()]
    parts += [f"## What is left\n\n```\n{needs}\n```"] if needs else []
    return "\n\n".join(part for part in parts if part) + "\n"


def table_text(name: str, table: PaperTable, runs: Runs) -> str:
    """Return one table: its rows, the orders of the paper in it, and why a row has no number."""
    lines = [HEAD]
    if not any(runs):
        return ""
    for row, of_row in zip(table.rows, runs, strict=True):
        lines += [_cells(number) for number in _row_numbers(table, row, of_row)]
    problems = {
        f"{run.subject.name}, {row.name}: {run.problem}"
        for row, of_row in zip(table.rows, runs, strict=True)
        for run in of_row
        if run.problem not in ("", NOT_RUN) and not run.missing
    }
    orders = list(_orders(table, runs))
    costs = _costs(table, runs) if "seconds" in table.figures else ""
    parts = [f"## {name}: {table.title}", table.note, markdown(lines, n_left=2), costs]
    parts += ["\n".join(f"- {order}" for order in orders)] if orders else []
    parts += ["\n".join(f"- no number: {escaped(problem)}" for problem in sorted(problems))] if problems else []
    return "\n\n".join(part for part in parts if part)


@dataclass(frozen=True)
class PaperNumber:
    """One number of a table, as published and as measured.

    Attributes:
        of: the data set and the figure; `of_paper`: the published column, where the number is of another world: a difference
            would say nothing.
        state: measured, missing (what is needed is not here), not run, no number, or why the row is not available.
    """

    row: str
    of: str
    of_paper: str
    published: float | None
    measured: Estimate | None
    difference: Estimate | None
    state: str


def reproduction_content(tables: Mapping[str, PaperTable], runs: Mapping[str, Runs]) -> list[dict[str, Any]]:
    """Return every number of these tables as JSON values, and the problem of each row that has none."""
    return [
        {"table": name, **asdict(number), "problems": sorted({run.problem for run in of_row if run.problem})}
        for name, table in tables.items()
        for row, of_row in zip(table.rows, runs[name], strict=True)
        for number in _row_numbers(table, row, of_row)
    ]


def _row_numbers(table: PaperTable, row: PaperRow, runs: Sequence[RowRun]) -> Iterator[PaperNumber]:
    if row.unavailable:
        for place, column in enumerate(table.columns):
            state = f"not available here: {row.unavailable}"
            yield PaperNumber(row.name, column.name, "", row.published_in(place), None, None, state)
    for place, column in enumerate(table.columns):
        own = [run for run in runs if run.subject.recipe == column.dataset and not run.subject.is_own]
        if own:
            yield _number_of(row, place, column, own)
    for subject in dict.fromkeys(run.subject.name for run in runs if run.subject.is_own):
        for name in table.figures:
            place = [column.figure for column in table.columns].index(name)  # the first: NExT-QA
            column = PaperColumn(name=f"{subject}, {name}", dataset=subject, figure=name)
            of_subject = [run for run in runs if run.subject.name == subject]
            yield _number_of(row, place, column, of_subject, of_paper=table.columns[place].name)


def _number_of(
    row: PaperRow, place: int, column: PaperColumn, runs: Sequence[RowRun], of_paper: str = ""
) -> PaperNumber:
    known = [figure(column.figure, run) for (run,) in distinct((run,) for run in runs if run.is_measured)]
    measured = over_seeds([number for number in known if number is not None])
    published = row.published_in(place)
    state = "measured"
    if measured is None:
        is_missing, is_left = any(run.missing for run in runs), any(run.problem == NOT_RUN for run in runs)
        state = "missing" if is_missing else "not run" if is_left else "no number"
    gap = None if measured is None or published is None or of_paper else difference(measured, published)
    return PaperNumber(row.name, column.name, of_paper, published, measured, gap, state)


def _cells(number: PaperNumber) -> list[str]:
    shown = or_dash(number.published, "{:g}") + (f" ({number.of_paper})" if number.of_paper else "")
    measured = number.state if number.measured is None else _with_interval(number.measured)
    gap = "-" if number.difference is None else _signed(number.difference)
    return [number.row, number.of, shown, "-" if measured == "no number" else measured, gap]


def _orders(table: PaperTable, runs: Runs) -> Iterator[str]:
    """Say of each two neighbouring rows that are accuracies whether the paper's order of them holds."""
    places = [place for place, column in enumerate(table.columns) if column.figure == "accuracy"]
    rows = [(row, of_row) for row, of_row in zip(table.rows, runs, strict=True) if of_row]
    for (lower, of_lower), (upper, of_upper) in pairwise(rows):
        for name in dict.fromkeys(run.subject.name for run in of_lower):
            place = next(
                (place for place in places if table.columns[place].dataset == name), places[0] if places else 0
            )
            one, two = (row.published_in(place) for row in (lower, upper))
            of_name = [(a, b) for a, b in zip(of_lower, of_upper, strict=True) if a.subject.name == name]
            pairs = [
                (a.metrics, b.metrics)
                for a, b in distinct(of_name)
                if isinstance(a.metrics, Metrics) and isinstance(b.metrics, Metrics)
            ]
            if not pairs or not places or one is None or two is None or one == two:
                continue
            if two < one:
                yield f"{name}: {escaped(_order(lower, upper, [(b, a) for a, b in pairs]))}"
            else:
                yield f"{name}: {escaped(_order(upper, lower, pairs))}"


def _order(better: PaperRow, worse: PaperRow, pairs: Sequence[tuple[Metrics, Metrics]]) -> str:
    """Say in how many seeds the second of each pair is above the first, and in how many surely."""
    tests = [paired_difference(a, b) for a, b in pairs]
    counts, order = tally(tests), f'"{better.name}" above "{worse.name}"'
    if len(tests) == 1:
        verdict = "holds, surely" if counts.n_surely_above else "holds" if counts.n_above else "does not hold"
    else:
        verdict = f"holds in {counts.n_above} of {len(tests)} seeds, sure in {counts.n_surely_above}"
    return f"{order}: {verdict}; {span(tests)}"


def _costs(table: PaperTable, runs: Runs) -> str:
    lines = [["stage", "row", "seconds a sample", "peak memory, GB", "on", "later runs"]]
    for row, of_row in zip(table.rows, runs, strict=True):
        for run in [run for run in of_row if run.is_measured][:1]:
            records, n = cost_records(run), max(1, n_samples(run))
            for record in records:
                again = "again" if record.stage in AGAIN else "reads it"
                figures = f"{record.seconds / n:.4f}", f"{peak_gigabytes(record):.2f}"
                lines.append([record.stage, row.name, *figures, record.device, again])
            first, later = (sum(each.seconds for each in records if each.stage in AGAIN or all_) / n for all_ in (1, 0))
            lines.append(["in all", row.name, f"{first:.4f}", "", "", f"{later:.4f} s a sample"])
    return "Of the first run, by the records:\n\n" + markdown(lines, n_left=2) if len(lines) > 1 else ""


def _how(runs: Mapping[str, Sequence[RowRun]], paper: Paper) -> str:
    measured = [run for of_table in runs.values() for run in of_table if run.is_measured]
    records = {run.metrics.record.id: run.metrics.record for run in measured if run.metrics is not None}.values()
    seeds = sorted({run.subject.seed for run in measured if run.subject.seed is not None})
    versions = sorted({f"{name} {version}" for record in records for name, version in record.libraries.items()})
    lines = [f"- wrote this on {datetime.now(UTC):%Y-%m-%d}; published: {escaped(paper.source)}"]
    if seeds:
        several = "with several, a number is the mean over those that change it, with its 95 % interval"
        lines.append(f"- seeds {', '.join(map(str, seeds))}; {several}")
    lines += [f"- {escaped(', '.join(versions))}"] if versions else []
    return "\n".join([*lines, f"- {HOW_TO_READ}"])


HOW_TO_READ = (
    "a difference is measured minus published; its interval is that of the measured number, as if the published one had none. "
    "An order holds where the row that the paper has higher is higher here; it is sure where the paired 95 % interval, by "
    "resampling videos, lies above 0"
)


def _with_interval(of: Estimate) -> str:
    form = ".1f" if of.value >= 10 else ".3g"
    interval = "" if of.low is None or of.high is None else f" ({of.low:{form}} - {of.high:{form}})"
    return f"{of.value:{form}}{interval}"


def _signed(of: Estimate) -> str:
    interval = "" if of.low is None or of.high is None else f" ({of.low:+.1f} to {of.high:+.1f})"
    return f"{of.value:+.1f}{interval}"
