"""One night of a benchmark: every setting of a matrix from cached features, its rows in the history, and what became worse.

<store>/benchmarks/<matrix>/history.parquet     a row for each setting and night
<store>/benchmarks/<matrix>/nights/<night>/     a store over the main one: what that night made anew
<store>/benchmarks/<matrix>/trend.png           accuracy and speed by night
"""

from __future__ import annotations

import logging
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from filelock import Timeout

from cache.errors import CorruptArtifactError, SevilaError
from cache.files import refuse_link, refuse_links
from cache.notes import read_note, write_note
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
from reports.benchmark_history import History
from reports.benchmark_plot import plot
from reports.benchmark_setting import SettingJob, run_setting_in_subprocess
from reports.compare import paired_test

log = logging.getLogger("sevila")

AGAINST = ("previous", "best")


@dataclass(frozen=True)
class Judged:
    """A row of tonight, its tests against other nights, its speed against the usual, and notes for people."""

    row: NightRow
    tests: Mapping[str, Paired | None]  # by AGAINST; None where there is no such night
    speeds: Sequence[Measured]
    notes: Sequence[str]


@dataclass(frozen=True)
class Night:
    """The outcome of a night. `plot` is where the plot lies, None without matplotlib."""

    matrix: Matrix
    night: str
    rows: Sequence[Judged]
    notes: Sequence[str]
    plot: Path | None

    @property
    def regressions(self) -> list[str]:
        """What became worse, a sentence each: setting, metric and both numbers."""
        return [text for judged in self.rows for text in _regressions(judged, self.matrix.alpha)]

    @property
    def failures(self) -> list[str]:
        """The settings that have no numbers, and why; the ways of one setting that failed alike together."""
        by_reason: dict[tuple[str, str, str], list[NightRow]] = {}
        for row in [judged.row for judged in self.rows if judged.row.status == FAILED]:
            by_reason.setdefault((row.recipe, row.setting, row.reason), []).append(row)
        return [
            f"{rows[0].name}{f' and {len(rows) - 1} more' if rows[1:] else ''}: {rows[0].reason}"
            for rows in by_reason.values()
        ]

    @property
    def verdict(self) -> str:
        """What is wrong, regressions first; empty where nothing is."""
        regressions = [f"regression: {text}" for text in self.regressions]
        return "; ".join([*regressions, *(f"failed: {text}" for text in self.failures)])


def folder_of(main: Store, matrix: Matrix) -> Path:
    """Return where a matrix' history and nights lie; raises `StoreError` if one of them is a link, or behind one."""
    folder = main.root / "benchmarks" / matrix.name
    for name in ("history.parquet", "trend.png", "at-work.json"):
        refuse_link(folder / name, main.root)
    refuse_links(folder / "nights")
    return folder


def run_night(
    matrix: Matrix,
    main: Store,
    places: Mapping[str, list[str]],
    device: str = "auto",
    batch_tokens: int = 16384,
    on_row: Callable[[NightRow], None] = lambda row: None,
    run_setting: Callable[[SettingJob], list[NightRow]] = run_setting_in_subprocess,
) -> Night:
    """Run every setting, append its rows to the history as they come, and compare them with the nights before.

    `run_setting` may try again what a machine failed; what it raises is the reason of a failed row.

    Raises:
        SevilaError: another run of this matrix is at work.
    """
    folder = folder_of(main, matrix)
    with _alone(main, matrix), main.in_use():
        night = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S.%f")[:-3] + "Z"
        # A store may hold nothing yet: each setting says what is missing.
        (main.root / "artifacts").mkdir(exist_ok=True)
        history = History(folder)
        before, damage = history.read_or_set_aside(night)
        tonight: list[NightRow] = []
        for job in _jobs(matrix, main, folder, night, dict(places), device, batch_tokens):
            log.info("%s %s", job.recipe, job.setting)
            rows = _rows_of(job, run_setting)
            history.append(rows)  # at once: what a killed night has measured stays
            for row in rows:
                on_row(row)
            tonight += rows
        judged = _judged(matrix, main, folder, before, tonight)
        _forget_old_nights(folder, matrix, [*before, *tonight])
        notes = [*([damage] if damage else []), *_missed(before, night)]
        return Night(matrix, night, judged, notes, plot([*before, *tonight], folder / "trend.png"))


def _jobs(
    matrix: Matrix,
    main: Store,
    folder: Path,
    night: str,
    places: dict[str, list[str]],
    device: str,
    batch_tokens: int,
) -> Iterator[SettingJob]:
    where = (main.root, main.roots[1:], folder / "nights" / night)
    for recipe, settings in matrix.recipes.items():
        for setting, changes in settings.items():
            yield SettingJob(night, recipe, setting, changes, *where, places, device, batch_tokens)


def _rows_of(job: SettingJob, run_setting: Callable[[SettingJob], list[NightRow]]) -> list[NightRow]:
    try:
        return run_setting(job)
    except SevilaError as error:
        return [job.failed(str(error))]
    except RuntimeError as error:
        return [job.failed(str(error).strip().splitlines()[-1])]


def _missed(before: Sequence[NightRow], night: str) -> list[str]:
    """Tell of nights without a run; the last one that has a run is the previous one all the same."""
    last = max((row.night for row in before), default=night)
    days = (date.fromisoformat(night[:10]) - date.fromisoformat(last[:10])).days
    return (
        [f"the last run was {days} days before, on {shown(last)}: the nights between were missed"] if days > 1 else []
    )


def _judged(
    matrix: Matrix, main: Store, folder: Path, before: Sequence[NightRow], tonight: Sequence[NightRow]
) -> list[Judged]:
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


def _regressions(judged: Judged, alpha: float) -> list[str]:
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


@contextmanager
def _alone(main: Store, matrix: Matrix) -> Iterator[None]:
    """Keep other runs of this matrix out.

    Raises:
        SevilaError: there is one; says who.
    """
    holder = folder_of(main, matrix) / "at-work.json"
    try:
        with main.lock(f"benchmarks/{matrix.name}").acquire(timeout=0):
            holder.parent.mkdir(parents=True, exist_ok=True)
            since = datetime.now(UTC).isoformat(timespec="seconds")
            write_note(holder, {"host": platform.node(), "process": os.getpid(), "since": since})
            try:
                yield
            finally:
                holder.unlink(missing_ok=True)
    except Timeout as error:
        who = "another run"
        with suppress(OSError, CorruptArtifactError):
            note = read_note(holder)
            who = f"process {note['process']} on {note['host']}, since {note['since']}"
        raise SevilaError(
            f"the benchmark {matrix.name!r} is being run by {who}; try again when it has ended"
        ) from error


def _forget_old_nights(folder: Path, matrix: Matrix, rows: Sequence[NightRow]) -> None:
    """Remove the nights' stores that no later comparison needs: all but the last, and the best and last one of each line."""
    nights = sorted({row.night for row in rows})
    keep = set(nights[-matrix.keep_nights :])
    lines: dict[tuple[str, ...], list[NightRow]] = {}
    for row in rows:
        if row.status == OK:
            lines.setdefault((row.recipe, row.setting, row.way, row.recipe_fingerprint), []).append(row)
    for line in lines.values():
        top = best([row for row in line if row.night >= str(matrix.since or "")])
        keep |= {line[-1].night, *([top.night] if top else [])}
    for path in (folder / "nights").glob("*"):
        if path.name not in keep and path.name < nights[-1]:
            shutil.rmtree(path, ignore_errors=True)
