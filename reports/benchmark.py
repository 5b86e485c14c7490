"""One night of a benchmark: run every setting of a matrix from cached features, extend the history, report regressions.

<store>/benchmarks/<matrix>/history.parquet     one row per setting and night
<store>/benchmarks/<matrix>/nights/<night>/     a store layered over the main one, with the artifacts of that night
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
from reports.benchmark_judging import JudgedRow, judge, missed_nights, needed_nights
from reports.benchmark_setting import SettingJob, run_setting_in_subprocess

log = logging.getLogger("sevila")


@dataclass(frozen=True)
class Night:
    """The outcome of a night; `plot` is the path of the plot, None if there is no number to show."""

    matrix: Matrix
    night: str
    rows: Sequence[JudgedRow]
    notes: Sequence[str]
    plot: Path | None

    @property
    def regressions(self) -> list[str]:
        """A sentence with both numbers for each setting and metric that became worse."""
        return [text for judged in self.rows for text in judged.regressions(self.matrix.alpha)]

    @property
    def failures(self) -> list[str]:
        """The settings without numbers and the reasons; variants of one setting with the same reason share an entry."""
        by_reason: dict[tuple[str, str, str], list[NightRow]] = {}
        for row in [judged.row for judged in self.rows if judged.row.status == FAILED]:
            by_reason.setdefault((row.recipe, row.setting, row.reason), []).append(row)
        return [
            f"{rows[0].name}{f' and {len(rows) - 1} more' if rows[1:] else ''}: {rows[0].reason}"
            for rows in by_reason.values()
        ]

    @property
    def problems(self) -> list[str]:
        """All regressions and failures, regressions first."""
        regressions = [f"regression: {text}" for text in self.regressions]
        return [*regressions, *(f"failed: {text}" for text in self.failures)]


def folder_of(main: Store, matrix: Matrix) -> Path:
    """Return the folder of a matrix' history and nights; raises `StoreError` if the path to one of them contains a link."""
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
    """Run every setting, append its rows to the history at once, and compare them with those of earlier nights.

    `run_setting` may retry after a machine error; an error that it raises becomes the reason of a failed row.

    Raises:
        SevilaError: Another process is running this matrix.
    """
    folder = folder_of(main, matrix)
    with _exclusive(main, matrix), main.in_use():
        night = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S.%f")[:-3] + "Z"
        # The store may be empty; each setting then reports what is missing.
        (main.root / "artifacts").mkdir(exist_ok=True)
        history = History(folder)
        before, notes = history.read_or_set_aside(night)
        tonight: list[NightRow] = []
        for recipe, settings in matrix.recipes.items():
            for setting, changes in settings.items():
                log.info("%s %s", recipe, setting)
                stores = (main.root, main.roots[1:], folder / "nights" / night)
                job = SettingJob(night, recipe, setting, changes, *stores, dict(places), device, batch_tokens)
                rows = _rows_or_failure(job, run_setting)
                history.append(rows)  # before the next setting, so that a killed night keeps its measurements
                for row in rows:
                    on_row(row)
                tonight += rows
        judged = judge(matrix, main, folder, before, tonight)
        keep = {night, *needed_nights([*before, *tonight], matrix)}
        for path in (folder / "nights").glob("*"):
            if path.name not in keep and path.name < night:
                shutil.rmtree(path, ignore_errors=True)
        plot_path = plot([*before, *tonight], folder / "trend.png")
        return Night(matrix, night, judged, [*notes, *missed_nights(before, night)], plot_path)


def _rows_or_failure(job: SettingJob, run_setting: Callable[[SettingJob], list[NightRow]]) -> list[NightRow]:
    try:
        return run_setting(job)
    except SevilaError as error:
        return [job.failed(str(error))]
    except RuntimeError as error:
        return [job.failed(str(error).strip().splitlines()[-1])]


@contextmanager
def _exclusive(main: Store, matrix: Matrix) -> Iterator[None]:
    """Hold the lock of this matrix; raises `SevilaError` that names the process which holds it already."""
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
            f"the benchmark {matrix.name!r} is being run by {who}; try again when that run has finished"
        ) from error
