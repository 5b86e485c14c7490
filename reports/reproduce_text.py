"""The paper's tables as a Markdown page: measured and published numbers, orderings that hold, costs, and missing inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from cache.printable import printable
from pipeline.text_table import escaped, markdown, or_dash
from reports.estimates import Estimate, difference, over_seeds, paired_difference, span, tally
from reports.missing_inputs import needs_text
from reports.paper import Paper, PaperColumn, PaperRow, PaperTable
from reports.paper_figures import AGAIN, cost_records, distinct, figure, n_samples, peak_gigabytes
from reports.reproduce import NOT_RUN, RowRun
from stages.evaluate import Metrics

Runs = Sequence[Sequence[RowRun]]  # of a table: for each row, one run per subject

HEAD = ["row", "number", "published", "measured (95 %)", "difference (95 %)"]


def reproduction_text(paper: Paper, tables: Mapping[str, PaperTable], runs: Mapping[str, Runs], command: str) -> str:
    """Return the page for these tables; if nothing could be measured, only the missing inputs."""
    flat = {name: [run for row_runs in table_runs for run in row_runs] for name, table_runs in runs.items()}
    needs = needs_text(paper, flat)
    if needs and not any(run.is_measured for table_runs in flat.values() for run in table_runs):
        return needs + "\n"
    parts = [f"# The paper's tables, measured\n\n```bash\n{printable(command)}\n```", _how(flat, paper)]
    parts += [table_text(name, table, runs[name]) for name, table in tables.items()]
    parts += [f"## Not measured\n\n```\n{needs}\n```"] if needs else []
    return "\n\n".join(part for part in parts if part) + "\n"


def table_text(name: str, table: PaperTable, runs: Runs) -> str:
    """Return one table: its rows, the paper's orderings of them, and why a row has no number."""
    lines = [HEAD]
    if not any(runs):
        return ""
    for row, row_runs in zip(table.rows, runs, strict=True):
        lines += [_cells(number) for number in _row_numbers(table, row, row_runs)]
    problems = {
        f"{run.subject.name}, {row.name}: {run.problem}"
        for row, row_runs in zip(table.rows, runs, strict=True)
        for run in row_runs
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
        of: The data set and the figure.
        of_paper: The published column, if `of` is not one of the paper's data sets; there is no `difference` then.
        state: measured, missing (inputs are not on this machine), not run, no number, or why the row is not available.
    """

    row: str
    of: str
    of_paper: str
    published: float | None
    measured: Estimate | None
    difference: Estimate | None
    state: str


def reproduction_content(tables: Mapping[str, PaperTable], runs: Mapping[str, Runs]) -> list[dict[str, Any]]:
    """Return every number of these tables as JSON values, with the problems of its row."""
    return [
        {"table": name, **asdict(number), "problems": sorted({run.problem for run in row_runs if run.problem})}
        for name, table in tables.items()
        for row, row_runs in zip(table.rows, runs[name], strict=True)
        for number in _row_numbers(table, row, row_runs)
    ]


def _row_numbers(table: PaperTable, row: PaperRow, runs: Sequence[RowRun]) -> Iterator[PaperNumber]:
    if row.unavailable:
        for place, column in enumerate(table.columns):
            state = f"not available here: {row.unavailable}"
            yield PaperNumber(row.name, column.name, "", row.published_in(place), None, None, state)
    for place, column in enumerate(table.columns):
        column_runs = [run for run in runs if run.subject.recipe == column.dataset and not run.subject.is_own]
        if column_runs:
            yield _number_of(row, place, column, column_runs)
    for subject in dict.fromkeys(run.subject.name for run in runs if run.subject.is_own):
        for name in table.figures:
            place = [column.figure for column in table.columns].index(name)  # the first such column: NExT-QA
            column = PaperColumn(name=f"{subject}, {name}", dataset=subject, figure=name)
            subject_runs = [run for run in runs if run.subject.name == subject]
            yield _number_of(row, place, column, subject_runs, of_paper=table.columns[place].name)


def _number_of(
    row: PaperRow, place: int, column: PaperColumn, runs: Sequence[RowRun], of_paper: str = ""
) -> PaperNumber:
    numbers = [figure(column.figure, run) for (run,) in distinct((run,) for run in runs if run.is_measured)]
    measured = over_seeds([number for number in numbers if number is not None])
    published = row.published_in(place)
    state = "measured"
    if measured is None:
        is_missing, is_not_run = any(run.missing for run in runs), any(run.problem == NOT_RUN for run in runs)
        state = "missing" if is_missing else "not run" if is_not_run else "no number"
    gap = None if measured is None or published is None or of_paper else difference(measured, published)
    return PaperNumber(row.name, column.name, of_paper, published, measured, gap, state)


def _cells(number: PaperNumber) -> list[str]:
    published = or_dash(number.published, "{:g}") + (f" ({number.of_paper})" if number.of_paper else "")
    measured = number.state if number.measured is None else _with_interval(number.measured)
    gap = "-" if number.difference is None else _signed(number.difference)
    return [number.row, number.of, published, "-" if measured == "no number" else measured, gap]


def _orders(table: PaperTable, runs: Runs) -> Iterator[str]:
    """Yield a line for each two neighbouring rows with accuracies: whether the paper's ordering of them holds."""
    places = [place for place, column in enumerate(table.columns) if column.figure == "accuracy"]
    rows = [(row, row_runs) for row, row_runs in zip(table.rows, runs, strict=True) if row_runs]
    for (row_a, runs_a), (row_b, runs_b) in pairwise(rows):
        for name in dict.fromkeys(run.subject.name for run in runs_a):
            place = next(
                (place for place in places if table.columns[place].dataset == name), places[0] if places else 0
            )
            published_a, published_b = row_a.published_in(place), row_b.published_in(place)
            same_subject = [(a, b) for a, b in zip(runs_a, runs_b, strict=True) if a.subject.name == name]
            pairs = [
                (a.metrics, b.metrics)
                for a, b in distinct(same_subject)
                if isinstance(a.metrics, Metrics) and isinstance(b.metrics, Metrics)
            ]
            if not pairs or not places or published_a is None or published_b is None or published_a == published_b:
                continue
            if published_b < published_a:
                yield f"{name}: {escaped(_order(row_a, row_b, [(b, a) for a, b in pairs]))}"
            else:
                yield f"{name}: {escaped(_order(row_b, row_a, pairs))}"


def _order(better: PaperRow, worse: PaperRow, pairs: Sequence[tuple[Metrics, Metrics]]) -> str:
    """Return the number of seeds in which the second of each pair is above the first, and is so significantly."""
    tests = [paired_difference(a, b) for a, b in pairs]
    counts, order = tally(tests), f'"{better.name}" above "{worse.name}"'
    if len(tests) == 1:
        verdict = "holds, significantly" if counts.n_significant else "holds" if counts.n_above else "does not hold"
    else:
        verdict = f"holds in {counts.n_above} of {len(tests)} seeds, significantly in {counts.n_significant}"
    return f"{order}: {verdict}; {span(tests)}"


def _costs(table: PaperTable, runs: Runs) -> str:
    lines = [["stage", "row", "seconds per sample", "peak memory, GB", "device", "later runs"]]
    for row, row_runs in zip(table.rows, runs, strict=True):
        for run in [run for run in row_runs if run.is_measured][:1]:
            records, n = cost_records(run), max(1, n_samples(run))
            for record in records:
                later_runs = "rerun" if record.stage in AGAIN else "cached"
                figures = f"{record.seconds / n:.4f}", f"{peak_gigabytes(record):.2f}"
                lines.append([record.stage, row.name, *figures, record.device, later_runs])
            first = sum(record.seconds for record in records) / n
            later = sum(record.seconds for record in records if record.stage in AGAIN) / n
            lines.append(["total", row.name, f"{first:.4f}", "", "", f"{later:.4f} s per sample"])
    return "The first run, from its records:\n\n" + markdown(lines, n_left=2) if len(lines) > 1 else ""


def _how(runs: Mapping[str, Sequence[RowRun]], paper: Paper) -> str:
    measured = [run for table_runs in runs.values() for run in table_runs if run.is_measured]
    records = {run.metrics.record.id: run.metrics.record for run in measured if run.metrics is not None}.values()
    seeds = sorted({run.subject.seed for run in measured if run.subject.seed is not None})
    versions = sorted({f"{name} {version}" for record in records for name, version in record.libraries.items()})
    lines = [f"- written on {datetime.now(UTC):%Y-%m-%d}; published: {escaped(paper.source)}"]
    if seeds:
        mean = "a number is the mean over the seeds that change it, with its 95 % interval"
        lines.append(f"- seeds {', '.join(map(str, seeds))}; {mean}")
    lines += [f"- {escaped(', '.join(versions))}"] if versions else []
    return "\n".join([*lines, f"- {HOW_TO_READ}"])


HOW_TO_READ = (
    "a difference is measured minus published; its interval treats the published number as exact. An ordering holds if the row "
    "with the higher published number is also higher here; it holds significantly if the paired 95 % interval, by resampling "
    "videos, lies above 0"
)


def _with_interval(number: Estimate) -> str:
    form = ".1f" if number.value >= 10 else ".3g"
    interval = "" if number.low is None or number.high is None else f" ({number.low:{form}} - {number.high:{form}})"
    return f"{number.value:{form}}{interval}"


def _signed(number: Estimate) -> str:
    interval = "" if number.low is None or number.high is None else f" ({number.low:+.1f} to {number.high:+.1f})"
    return f"{number.value:+.1f}{interval}"
