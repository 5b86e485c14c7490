"""Comparison of a benchmark's rows of tonight with earlier nights: paired tests, speed, memory, and notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from statistics import median

from cache.errors import SevilaError
from cache.store import Store
from pipeline.benchmarks.matrix import Matrix, Tolerance
from pipeline.metrics.comparison import PairedRow, holm
from reports.benchmark_history import FAILED, OK, NightRow, night_label
from reports.compare import paired_test

USUAL_NIGHTS = 7  # the usual speed is the median of at most so many nights
ENOUGH_NIGHTS = 3  # with fewer nights the change is shown, but never reported as a regression
AGAINST = ("previous", "best")


@dataclass(frozen=True)
class NightTest:
    """The paired test of tonight's answers (B) against those of another night (A), over the questions of both.

    `p_corrected` is the p value after Holm's correction; `problem` is the reason why there is no test.
    """

    night: str
    row: PairedRow | None = None
    p_corrected: float = 1.0
    problem: str = ""

    def is_worse(self, alpha: float) -> bool:
        """Whether tonight is significantly worse."""
        return self.row is not None and self.row.difference_points < 0 and self.p_corrected < alpha


@dataclass(frozen=True)
class NightFigure:
    """A speed or peak memory of tonight, and its median over the last nights on the same host and device."""

    name: str  # questions/s, peak memory, peak GPU memory
    now: float
    usual: float
    n_nights: int
    tolerance_percent: float
    more_is_better: bool

    @property
    def change_percent(self) -> float:
        """Change from the usual value, in percent of it."""
        return 100 * (self.now / self.usual - 1)

    @property
    def is_worse(self) -> bool:
        """Whether it is worse than usual by more than the tolerance; False with fewer than `ENOUGH_NIGHTS` nights."""
        loss = -self.change_percent if self.more_is_better else self.change_percent
        return self.n_nights >= ENOUGH_NIGHTS and loss > self.tolerance_percent


@dataclass(frozen=True)
class JudgedRow:
    """A row of tonight, its tests against other nights, its speed and memory against the usual, and notes for the user."""

    row: NightRow
    tests: Mapping[str, NightTest | None]  # by AGAINST; None if there is no such night
    figures: Sequence[NightFigure]
    notes: Sequence[str]

    def regressions(self, alpha: float) -> list[str]:
        """Return a sentence for each test, speed and peak memory that became worse."""
        sentences: list[str] = []
        worse: dict[NightTest, list[str]] = {}
        for name, test in self.tests.items():
            if test is not None and test.is_worse(alpha):
                worse.setdefault(test, []).append(name)  # the previous night may also be the best
        for test, names in worse.items():
            assert test.row is not None
            sentences.append(
                f"{self.row.name}: accuracy {test.row.b_percent:.1f} %, {test.row.a_percent:.1f} % on the "
                f"{' and '.join(names)} night, {night_label(test.night)} ({test.row.n_questions} questions, "
                f"p = {test.p_corrected:.2g} after Holm's correction)"
            )
        return sentences + [
            f"{self.row.name}: {figure.name} {with_unit(figure.name, figure.now)}, "
            f"usually {with_unit(figure.name, figure.usual)} (median of {figure.n_nights} nights): "
            f"{figure.change_percent:+.0f} %, tolerance {figure.tolerance_percent:g} %"
            for figure in self.figures
            if figure.is_worse
        ]


def missed_nights(before: Sequence[NightRow], night: str) -> list[str]:
    """Return a note if the last run was more than a day before `night`; it still counts as the previous night."""
    last = max((row.night for row in before), default=night)
    days = (date.fromisoformat(night[:10]) - date.fromisoformat(last[:10])).days
    note = f"the last run was {days} days ago, on {night_label(last)}: the nights between were missed"
    return [note] if days > 1 else []


def judge(
    matrix: Matrix, main: Store, folder: Path, before: Sequence[NightRow], tonight: Sequence[NightRow]
) -> list[JudgedRow]:
    """Return tonight's rows in their order, compared with `before`, the rows of earlier nights.

    Args:
        main: The store that the benchmark reads from.
        folder: The benchmark's folder, where `nights/` holds the answers of each night.
    """
    earlier = [_comparable(before, row, matrix.since) for row in tonight]
    others = {"previous": [rows[-1] if rows else None for rows in earlier], "best": list(map(best_night, earlier))}
    tests = {
        name: corrected([_test(main, folder, row, other) for row, other in zip(tonight, others[name], strict=True)])
        for name in AGAINST
    }
    return [
        JudgedRow(
            row,
            {name: tests[name][number] for name in AGAINST},
            night_figures(rows, row, matrix.tolerance) if row.status == OK else [],
            _notes(before, row, rows) if row.status == OK else [],
        )
        for number, (row, rows) in enumerate(zip(tonight, earlier, strict=True))
    ]


def _comparable(before: Sequence[NightRow], row: NightRow, since: date | None) -> list[NightRow]:
    """Return the earlier rows of the same evaluation of the same recipe, oldest first."""
    series, start = _series(row), str(since or "")
    rows = [other for other in before if _series(other) == series and other.metric == row.metric and other.status == OK]
    return sorted((other for other in rows if start <= other.night < row.night), key=lambda other: other.night)


def _series(row: NightRow) -> tuple[str, ...]:
    """Return the key that comparable rows of different nights share."""
    return row.recipe, row.setting, row.way, row.recipe_fingerprint


def best_night(rows: Sequence[NightRow]) -> NightRow | None:
    """Return the best of these rows, the last one of equals; None if none has a number."""
    measured = [row for row in rows if row.metric_percent is not None]
    return max(measured, key=lambda row: (row.metric_percent, row.night), default=None)


def needed_nights(rows: Sequence[NightRow], matrix: Matrix) -> set[str]:
    """Return the nights whose answers later comparisons need: the last ones, and the best and last of each series."""
    keep = set(sorted({row.night for row in rows})[-matrix.keep_nights :])
    by_series: dict[tuple[str, ...], list[NightRow]] = {}
    for row in rows:
        if row.status == OK:
            by_series.setdefault(_series(row), []).append(row)
    for series in by_series.values():
        best = best_night([row for row in series if row.night >= str(matrix.since or "")])
        keep |= {series[-1].night, *([best.night] if best else [])}
    return keep


def _test(main: Store, folder: Path, row: NightRow, other: NightRow | None) -> NightTest | None:
    if other is None or row.status != OK:
        return None
    if row.metric != "accuracy":
        return NightTest(other.night, problem=f"{row.metric} has no paired test")
    try:
        store_a, store_b = (_store(main, folder, night) for night in (other.night, row.night))
        return NightTest(other.night, paired_test(store_a, other.answers, store_b, row.answers))
    except SevilaError as error:
        return NightTest(other.night, problem=str(error))


def _store(main: Store, folder: Path, night: str) -> Store:
    root = folder / "nights" / night
    if not root.is_dir():
        raise SevilaError(f"the answers of night {night_label(night)} no longer exist")
    return Store(root, main.roots)


def corrected(tests: Sequence[NightTest | None]) -> list[NightTest | None]:
    """Return tests, all against the previous or all against the best night, with Holm's correction over their rows."""
    rows = [test.row for test in tests if test is not None and test.row is not None]
    values = iter(holm([row.p_value for row in rows]))
    return [replace(test, p_corrected=next(values)) if test is not None and test.row else test for test in tests]


def night_figures(before: Sequence[NightRow], row: NightRow, tolerance: Tolerance) -> list[NightFigure]:
    """Return speed and memory against the last nights on this host and device; values missing on either side are left out."""
    same_machine = [other for other in before if (other.host, other.device) == (row.host, row.device)][-USUAL_NIGHTS:]
    figures = []
    for name, now in figures_of(row).items():
        earlier = [value for other in same_machine if (value := figures_of(other)[name])]
        is_speed = name == "questions/s"
        percent = tolerance.throughput_percent if is_speed else tolerance.peak_memory_percent
        if now and earlier:
            figures.append(NightFigure(name, now, median(earlier), len(earlier), percent, more_is_better=is_speed))
    return figures


def figures_of(row: NightRow) -> dict[str, float | None]:
    """Return speed and peak memory (bytes) of a row by name."""
    speed, memory = row.questions_per_second, row.peak_memory_bytes
    return {"questions/s": speed, "peak memory": memory, "peak GPU memory": row.peak_gpu_memory_bytes}


def _notes(before: Sequence[NightRow], row: NightRow, comparable: Sequence[NightRow]) -> list[str]:
    """Return notes on what limits the comparison of a row with earlier nights."""
    same_setting = [other for other in before if (other.recipe, other.setting) == (row.recipe, row.setting)]
    if not comparable:
        measured = [other for other in same_setting if other.way == row.way and other.status == OK]
        if measured and measured[-1].recipe_fingerprint != row.recipe_fingerprint:
            return [f"the recipe has changed since {night_label(measured[-1].night)}: comparisons start anew"]
        return [f"nothing to compare with since {night_label(measured[-1].night)}" if measured else "first night"]
    last, notes = comparable[-1], []
    failed = [other for other in same_setting if other.status == FAILED and other.night > last.night]
    if failed:
        notes.append(f"failed on {night_label(failed[-1].night)}, so the previous night is {night_label(last.night)}")
    if all((other.host, other.device) != (row.host, row.device) for other in comparable):
        notes.append(
            f"first night on {row.host}, {row.device} (previous night: {last.host}, {last.device}): speed and memory are "
            "not compared"
        )
    if other_libraries := sorted(set(row.libraries) ^ set(last.libraries)):
        notes.append(f"libraries differ from the previous night: {', '.join(other_libraries)}")
    return notes


def with_unit(name: str, value: float) -> str:
    """Return the text of a figure, with its unit unless its name contains it."""
    return f"{value / 2**20:.0f} MiB" if "memory" in name else f"{value:.3g}"
