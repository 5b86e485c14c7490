"""One night of a benchmark: every setting of a matrix from cached features, its rows in the history, and what became worse.

<store>/benchmarks/<matrix>/history.parquet     a row for each setting and night
<store>/benchmarks/<matrix>/nights/<night>/     a store over the main one, with the artifacts of that night
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

from cache.errors import SevilaError
from cache.files import refuse_link, refuse_links, write_atomically
from cache.store import Store
from pipeline.benchmarks.matrix import Matrix
from reports.benchmark_history import FAILED, History, NightRow, plot
from reports.benchmark_judging import Judged, judge, missed_nights, needed_nights
from reports.benchmark_setting import SettingJob, run_setting_in_subprocess

log = logging.getLogger("sevila")


@dataclass(frozen=True)
class Night:
    """The outcome of a night. `plot` is where the plot lies, None without a number to show."""

    matrix: Matrix
    night: str
    rows: Sequence[Judged]
    notes: Sequence[str]
    plot: Path | None

    @property
    def regressions(self) -> list[str]:
        """A sentence for each setting and metric that became worse, with both numbers."""
        return [text for judged in self.rows for text in judged.regressions(self.matrix.alpha)]

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
    def problems(self) -> list[str]:
        """Everything that is wrong, regressions first."""
        regressions = [f"regression: {text}" for text in self.regressions]
        return [*regressions, *(f"failed: {text}" for text in self.failures)]


def folder_of(main: Store, matrix: Matrix) -> Path:
    """Return where a matrix' history and nights lie; raises `StoreError` if one of them is a link, or behind one."""
    folder = main.root / "benchmarks" / matrix.name
    for name in ("history.parquet", "trend.png", "at-work.txt"):
        refuse_link(folder / name, main.root)
    refuse_links(folder / "nights")
    return folder


def run_night(
    matrix: Matrix,
    main: Store,
    places: Mapping[str, list[str]],
    device: str = "auto",
    batch_tokens: int | None = None,
    on_row: Callable[[NightRow], None] = lambda row: None,
    run_setting: Callable[[SettingJob], list[NightRow]] = run_setting_in_subprocess,
) -> Night:
    """Run every setting, append its rows to the history as they come, and compare them with the nights before.

    `run_setting` may try again where a machine failed; what it raises is the reason of a failed row.

    Raises:
        SevilaError: another run of this matrix is at work.
    """
    folder = folder_of(main, matrix)
    with _alone(main, matrix), main.in_use():
        night = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S.%f")[:-3] + "Z"
        # A store may hold nothing yet: each setting says what is missing.
        (main.root / "artifacts").mkdir(exist_ok=True)
        history = History(folder)
        before, notes = history.read_or_set_aside(night)
        tonight: list[NightRow] = []
        for recipe, settings in matrix.recipes.items():
            for setting, changes in settings.items():
                log.info("%s %s", recipe, setting)
                where = (main.root, main.roots[1:], folder / "nights" / night)
                rows = _rows_of(
                    SettingJob(night, recipe, setting, changes, *where, dict(places), device, batch_tokens), run_setting
                )
                history.append(rows)  # at once: what a killed night has measured stays
                for row in rows:
                    on_row(row)
                tonight += rows
        judged = judge(matrix, main, folder, before, tonight)
        keep = {night, *needed_nights([*before, *tonight], matrix)}
        for path in (folder / "nights").glob("*"):
            if path.name not in keep and path.name < night:
                shutil.rmtree(path, ignore_errors=True)
        picture = plot([*before, *tonight], folder / "trend.png")
        return Night(matrix, night, judged, [*notes, *missed_nights(before, night)], picture)


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
    holder = folder_of(main, matrix) / "at-work.txt"
    try:
        with main.lock(f"benchmarks/{matrix.name}").acquire(timeout=0):
            holder.parent.mkdir(parents=True, exist_ok=True)
            since = datetime.now(UTC).isoformat(timespec="seconds")
            write_atomically(holder, f"process {os.getpid()} on {platform.node()}, since {since}".encode())
            try:
                yield
            finally:
                holder.unlink(missing_ok=True)
    except Timeout as error:
        who = "another run"
        with suppress(OSError):
            who = holder.read_text()
        raise SevilaError(
            f"the benchmark {matrix.name!r} is being run by {who}; try again when it has ended"
        ) from error
