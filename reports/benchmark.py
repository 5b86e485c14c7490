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
from datetime import UTC, datetime
from pathlib import Path

from filelock import Timeout

from cache.errors import CorruptArtifactError, SevilaError
from cache.files import refuse_link, refuse_links
from cache.notes import read_note, write_note
from cache.store import Store
from pipeline.benchmarks.matrix import FAILED, OK, Matrix, NightRow, best
from reports.benchmark_history import History
from reports.benchmark_judging import Judged, judge, missed_nights, regressions_of
from reports.benchmark_plot import plot
from reports.benchmark_setting import SettingJob, run_setting_in_subprocess

log = logging.getLogger("sevila")


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
        return [text for judged in self.rows for text in regressions_of(judged, self.matrix.alpha)]

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
        judged = judge(matrix, main, folder, before, tonight)
        _forget_old_nights(folder, matrix, [*before, *tonight])
        notes = [*([damage] if damage else []), *missed_nights(before, night)]
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
