"""Tonight's rows of a benchmark against the nights before: paired tests, speed, memory, and notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from statistics import median

from cache.errors import SevilaError
from cache.store import Store
from pipeline.benchmarks.matrix import Matrix, Tolerance
from pipeline.metrics.comparison import PairedRow
from reports.benchmark_history import FAILED, OK, NightRow, shown
from reports.compare import paired_test

USUAL_NIGHTS = 7  # whose median is the usual speed
ENOUGH_NIGHTS = 3  # to know the usual: fewer are shown, but nothing is called worse than them
AGAINST = ("previous", "best")


@dataclass(frozen=True)
class Paired:
    """Tonight's answers (B) against those of another night (A), over the questions of both.

    `p_corrected` is after Holm's correction. `problem` says why there is no test.
    """

    night: str
    row: PairedRow | None = None
    p_corrected: float = 1.0
    problem: str = ""

    def is_worse(self, alpha: float) -> bool:
        """Whether tonight is worse by more than chance explains."""
        return self.row is not None and self.row.difference_points < 0 and self.p_corrected < alpha


@dataclass(frozen=True)
class Measured:
    """A speed or a peak of memory tonight, and the median of the last nights on the same host and device."""

    what: str  # questions/s, peak memory, peak GPU memory
    now: float
    usual: float
    n_nights: int
    tolerance_percent: float
    more_is_better: bool

    @property
    def change_percent(self) -> float:
        """How much more than usual."""
        return 100 * (self.now / self.usual - 1)

    @property
    def is_worse(self) -> bool:
        """Whether it is worse than usual by more than is tolerated; never before there are enough nights."""
        loss = -self.change_percent if self.more_is_better else self.change_percent
        return self.n_nights >= ENOUGH_NIGHTS and loss > self.tolerance_percent


@dataclass(frozen=True)
class Judged:
    """A row of tonight, its tests against other nights, its speed against the usual, and notes for people."""

    row: NightRow
    tests: Mapping[str, Paired | None]  # by AGAINST; None where there is no such night
    speeds: Sequence[Measured]
    notes: Sequence[str]

    def regressions(self, alpha: float) -> list[str]:
        """Return a sentence for each test, speed and peak that became worse."""
        sentences: list[str] = []
        worse: dict[Paired, list[str]] = {}
        for name, test in self.tests.items():
            if test is not None and test.is_worse(alpha):
                worse.setdefault(test, []).append(name)  # the previous night may be the best
        for test, names in worse.items():
            assert test.row is not None
            sentences.append(
                f"{self.row.name}: accuracy {test.row.b_percent:.1f} %, {test.row.a_percent:.1f} % on the "
                f"{' and '.join(names)} night, {shown(test.night)} ({test.row.n_questions} questions, "
                f"p = {test.p_corrected:.2g} after Holm's correction)"
            )
        return sentences + [
            f"{self.row.name}: {speed.what} {with_unit(speed.what, speed.now)}, usually {with_unit(speed.what, speed.usual)} "
            f"(median of {speed.n_nights} nights): {speed.change_percent:+.0f} %, {speed.tolerance_percent:g} % are tolerated"
            for speed in self.speeds
            if speed.is_worse
        ]


def missed_nights(before: Sequence[NightRow], night: str) -> list[str]:
    """Return a note on nights without a run; the last one that has a run is the previous one all the same."""
    last = max((row.night for row in before), default=night)
    days = (date.fromisoformat(night[:10]) - date.fromisoformat(last[:10])).days
    return (
        [f"the last run was {days} days before, on {shown(last)}: the nights between were missed"] if days > 1 else []
    )


def judge(
    matrix: Matrix, main: Store, folder: Path, before: Sequence[NightRow], tonight: Sequence[NightRow]
) -> list[Judged]:
    """Return tonight's rows in their order, compared with `before`, the rows of earlier nights.

    Args:
        main: the store that the benchmark reads from.
        folder: the benchmark's own, where `nights/` holds the answers of each night.
    """
    lines = [_comparable(before, row, matrix.since) for row in tonight]
    others = {
        "previous": [line[-1] if line else None for line in lines],
        "best": [best(line) for line in lines],
    }
    tests = {
        name: corrected([_test(main, folder, row, other) for row, other in zip(tonight, others[name], strict=True)])
        for name in AGAINST
    }
    return [
        Judged(
            row,
            {name: tests[name][place] for name in AGAINST},
            measured(line, row, matrix.tolerance) if row.status == OK else [],
            _notes(before, row, line) if row.status == OK else [],
        )
        for place, (row, line) in enumerate(zip(tonight, lines, strict=True))
    ]


def _comparable(before: Sequence[NightRow], row: NightRow, since: date | None) -> list[NightRow]:
    """Return the earlier nights of the same way of the same recipe, oldest first."""
    line, start = _line(row), str(since or "")
    rows = [other for other in before if _line(other) == line and other.metric == row.metric and other.status == OK]
    return sorted((other for other in rows if start <= other.night < row.night), key=lambda other: other.night)


def _line(row: NightRow) -> tuple[str, ...]:
    return row.recipe, row.setting, row.way, row.recipe_fingerprint


def best(rows: Sequence[NightRow]) -> NightRow | None:
    """Return the best of these nights, of equals the last; None where none has a number."""
    known = [row for row in rows if row.metric_percent is not None]
    return max(known, key=lambda row: (row.metric_percent, row.night), default=None)


def needed_nights(rows: Sequence[NightRow], matrix: Matrix) -> set[str]:
    """Return the nights whose answers a later comparison needs: the last ones, the best and the last of each line."""
    keep = set(sorted({row.night for row in rows})[-matrix.keep_nights :])
    lines: dict[tuple[str, ...], list[NightRow]] = {}
    for row in rows:
        if row.status == OK:
            lines.setdefault(_line(row), []).append(row)
    for line in lines.values():
        top = best([row for row in line if row.night >= str(matrix.since or "")])
        keep |= {line[-1].night, *([top.night] if top else [])}
    return keep


def _test(main: Store, folder: Path, row: NightRow, other: NightRow | None) -> Paired | None:
    if other is None or row.status != OK:
        return None
    if row.metric != "accuracy":
        return Paired(other.night, problem=f"{row.metric} has no paired test")
    try:
        then, now = (_store(main, folder, night) for night in (other.night, row.night))
        return Paired(other.night, paired_test(then, other.answers, now, row.answers))
    except SevilaError as error:
        return Paired(other.night, problem=str(error))


def _store(main: Store, folder: Path, night: str) -> Store:
    root = folder / "nights" / night
    if not root.is_dir():
        raise SevilaError(f"the answers of night {shown(night)} are gone")
    return Store(root, main.roots)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values after Holm's correction for their number, in the same order."""
    corrected, so_far = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = so_far
    return corrected


def corrected(tests: Sequence[Paired | None]) -> list[Paired | None]:
    """Return the tests of one night against the same other one with Holm's correction over those that there are."""
    rows = [test.row for test in tests if test is not None and test.row is not None]
    values = iter(holm([1.0 if row.p_value is None else row.p_value for row in rows]))
    return [replace(test, p_corrected=next(values)) if test is not None and test.row else test for test in tests]


def measured(before: Sequence[NightRow], row: NightRow, tolerance: Tolerance) -> list[Measured]:
    """Return speed and memory against the last nights on this host and device; what either side lacks is left out."""
    same = [other for other in before if (other.host, other.device) == (row.host, row.device)][-USUAL_NIGHTS:]
    figures = []
    for what, now in figures_of(row).items():
        usual = [value for other in same if (value := figures_of(other)[what])]
        is_speed = what == "questions/s"
        percent = tolerance.throughput_percent if is_speed else tolerance.peak_memory_percent
        if now and usual:
            figures.append(Measured(what, now, median(usual), len(usual), percent, more_is_better=is_speed))
    return figures


def figures_of(row: NightRow) -> dict[str, float | None]:
    """Return speed and memory of a row, by what they are called."""
    speed, memory = row.questions_per_second, row.peak_memory_bytes
    return {"questions/s": speed, "peak memory": memory, "peak GPU memory": row.peak_gpu_memory_bytes}


def _notes(before: Sequence[NightRow], row: NightRow, line: Sequence[NightRow]) -> list[str]:
    """Return what people should know of a row beside its numbers."""
    same = [other for other in before if (other.recipe, other.setting) == (row.recipe, row.setting)]
    if not line:
        known = [other for other in same if other.way == row.way and other.status == OK]
        if known and known[-1].recipe_fingerprint != row.recipe_fingerprint:
            return [f"the recipe has changed since {shown(known[-1].night)}: a new line begins"]
        return [f"nothing to compare with since {shown(known[-1].night)}" if known else "first night"]
    last, notes = line[-1], []
    failed = [other for other in same if other.status == FAILED and other.night > last.night]
    if failed:
        notes.append(f"failed on {shown(failed[-1].night)}, so the previous night is {shown(last.night)}")
    if all((other.host, other.device) != (row.host, row.device) for other in line):
        notes.append(
            f"first night on {row.host}, {row.device} (the previous: {last.host}, {last.device}): speed and memory are "
            "not compared"
        )
    if other_libraries := sorted(set(row.libraries) ^ set(last.libraries)):
        notes.append(f"other libraries than on the previous night: {', '.join(other_libraries)}")
    return notes


def with_unit(what: str, value: float) -> str:
    """Return a speed, or a peak of memory, with its unit where the name does not say it."""
    return f"{value / 2**20:.0f} MiB" if "memory" in what else f"{value:.3g}"
