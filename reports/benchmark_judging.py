"""Tonight's rows of a benchmark against the nights before: tests, speeds and what people should know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from cache.errors import SevilaError
from cache.store import Store
from pipeline.benchmarks.matrix import (
    FAILED,
    OK,
    Matrix,
    Measured,
    NightRow,
    Paired,
    best,
    corrected,
    earlier,
    measured,
    shown,
)
from reports.compare import paired_test

AGAINST = ("previous", "best")


@dataclass(frozen=True)
class Judged:
    """A row of tonight, its tests against other nights, its speed against the usual, and notes for people."""

    row: NightRow
    tests: Mapping[str, Paired | None]  # by AGAINST; None where there is no such night
    speeds: Sequence[Measured]
    notes: Sequence[str]


def missed_nights(before: Sequence[NightRow], night: str) -> list[str]:
    """Tell of nights without a run; the last one that has a run is the previous one all the same."""
    last = max((row.night for row in before), default=night)
    days = (date.fromisoformat(night[:10]) - date.fromisoformat(last[:10])).days
    return (
        [f"the last run was {days} days before, on {shown(last)}: the nights between were missed"] if days > 1 else []
    )


def judge(
    matrix: Matrix, main: Store, folder: Path, before: Sequence[NightRow], tonight: Sequence[NightRow]
) -> list[Judged]:
    """Return tonight's rows in their order, held against `before`, the rows of earlier nights.

    Args:
        main: the store that the benchmark reads from.
        folder: the benchmark's own, where `nights/` holds the answers of each night.
    """
    lines = [earlier(before, row, matrix.since) for row in tonight]
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
            _notes(before, row, line),
        )
        for place, (row, line) in enumerate(zip(tonight, lines, strict=True))
    ]


def _test(main: Store, folder: Path, row: NightRow, other: NightRow | None) -> Paired | None:
    if other is None or row.status != OK:
        return None
    if row.metric != "accuracy":
        return Paired(other.night, problem=f"{row.metric} has no paired test")
    try:
        then, now = (_store(main, folder, night) for night in (other.night, row.night))
        test = paired_test(then, other.answers, now, row.answers)
    except SevilaError as error:
        return Paired(other.night, problem=str(error))
    return Paired(other.night, test.a_percent, test.b_percent, test.n_questions, test.p_value or 1.0)


def _store(main: Store, folder: Path, night: str) -> Store:
    root = folder / "nights" / night
    if not root.is_dir():
        raise SevilaError(f"the answers of night {shown(night)} are gone")
    return Store(root, main.roots)


def _notes(before: Sequence[NightRow], row: NightRow, line: Sequence[NightRow]) -> list[str]:
    """Return what people should know of a row beside its numbers."""
    if row.status != OK:
        return []
    same = [other for other in before if (other.recipe, other.setting, other.way) == (row.recipe, row.setting, row.way)]
    known = [other for other in same if other.status == OK]
    if not line:
        if known and known[-1].recipe_fingerprint != row.recipe_fingerprint:
            return [f"the recipe has changed since {shown(known[-1].night)}: a new line begins"]
        return [f"nothing to compare with since {shown(known[-1].night)}" if known else "first night"]
    notes = []
    failed = [other for other in before if (other.recipe, other.setting) == (row.recipe, row.setting)]
    failed = [other for other in failed if other.status == FAILED and other.night > line[-1].night]
    if failed:
        notes.append(f"failed on {shown(failed[-1].night)}, so the previous night is {shown(line[-1].night)}")
    here = (row.host, row.device)
    if all((other.host, other.device) != here for other in line):
        notes.append(
            f"first night on {row.host}, {row.device} (the previous: {line[-1].host}, {line[-1].device}): speed and memory are "
            "not compared"
        )
    if row.libraries != line[-1].libraries:
        other_libraries = sorted(set(row.libraries) ^ set(line[-1].libraries))
        notes.append(f"other libraries than on the previous night: {', '.join(other_libraries)}")
    return notes


def regressions_of(judged: Judged, alpha: float) -> list[str]:
    """Return what became worse of a row, a sentence each."""
    sentences: list[str] = []
    worse: dict[Paired, list[str]] = {}
    for name, test in judged.tests.items():
        if test is not None and not test.problem and test.is_worse(alpha):
            worse.setdefault(test, []).append(name)  # the previous night may be the best
    for test, names in worse.items():
        sentences.append(
            f"{judged.row.name}: accuracy {test.now_percent:.1f} %, {test.then_percent:.1f} % on the {' and '.join(names)} "
            f"night, {shown(test.night)} ({test.n_questions} questions, p = {test.p_corrected:.2g} after Holm's correction)"
        )
    for speed in judged.speeds:
        if speed.is_worse:
            sentences.append(
                f"{judged.row.name}: {speed.what} {figure(speed.what, speed.now)}, usually "
                f"{figure(speed.what, speed.usual)} (median of {speed.n_nights} nights): {speed.change_percent:+.0f} %, "
                f"{speed.tolerance_percent:g} % are tolerated"
            )
    return sentences


def figure(what: str, value: float) -> str:
    """Return a speed, or a peak of memory, with its unit where the name does not say it."""
    return f"{value / 2**20:.0f} MiB" if "memory" in what else f"{value:.3g}"
