"""The history of a benchmark: a Parquet file with one row per evaluated setting and night, and a plot of its trend."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cache.errors import CorruptArtifactError, SchemaError
from cache.files import published
from cache.tables import read_rows, write_rows
from pipeline.engine.row_schema import schema_of

log = logging.getLogger("sevila")

OK, FAILED = "ok", "failed"
NIGHTS_SHOWN = 90  # in the plot
HALF_A_DAY = timedelta(hours=12)


@dataclass(frozen=True)
class NightRow:
    """One evaluation of one setting in one night; fields that a failure left unset are None or "".

    Attributes:
        night: Start of the night in UTC: `2026-11-21T03-00-07.123Z`.
        recipe: Name of the recipe; for a path the file's stem.
        way: The evaluation of a full chain (`uniform, zero-shot`); empty if the chain has only one.
        recipe_fingerprint: Of the recipe with the setting's changes; rows are compared only if it is equal.
        status: ok or failed.
        answers: Id of the answers in the night's own store; for moments, of the retrieved moments.
        metric: accuracy, or R1@0.5 of moments.
        metric_percent: None after a failure, or if no question has a known answer.
        stages: The stages that were run for it; `stage_seconds` holds their seconds.
        questions_per_second: Over the `stages` without evaluation.
        peak_memory_bytes: Of the process that ran them; `peak_gpu_memory_bytes` is None without a GPU.
    """

    night: str
    recipe: str
    setting: str
    way: str
    recipe_fingerprint: str
    status: str
    reason: str = ""
    answers: str = ""
    metrics: str = ""
    metric: str = ""
    metric_percent: float | None = None
    n_questions: int | None = None
    unanswered_percent: float | None = None
    stages: Sequence[str] = ()
    stage_seconds: Sequence[float] = ()
    questions_per_second: float | None = None
    peak_memory_bytes: int | None = None
    peak_gpu_memory_bytes: int | None = None
    device: str = ""
    host: str = ""
    libraries: Sequence[str] = ()
    git_revision: str = ""

    @property
    def name(self) -> str:
        """The display name of the row, the same every night."""
        return f"{self.recipe} {self.setting}" + (f": {self.way}" if self.way else "")


HISTORY = schema_of(1, NightRow, peak_memory_bytes="int64", peak_gpu_memory_bytes="int64")


def night_label(night: str) -> str:
    """Return the display form of a night: `2026-11-21 03:00`."""
    return f"{night[:10]} {night[11:16].replace('-', ':')}"


class History:
    """The rows of all nights; callers of `append` hold the lock of the matrix."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "history.parquet"

    def read(self) -> list[NightRow]:
        """Return all rows in the order of their runs; raises `CorruptArtifactError` or `SchemaError` for a damaged file."""
        return [NightRow(**row) for row in read_rows([self.path], HISTORY)] if self.path.exists() else []

    def read_or_set_aside(self, night: str) -> tuple[list[NightRow], list[str]]:
        """Return all rows, and notes for the user; a damaged file is renamed, and a new history begins."""
        try:
            return self.read(), []
        except (CorruptArtifactError, SchemaError) as error:
            aside = self.path.with_name(f"history.damaged-{night}.parquet")
            os.replace(self.path, aside)
            reason = str(error).splitlines()[0].split("; ")[0]
            message = f"the history was damaged and is set aside as {aside}; a new one begins tonight ({reason})"
            log.warning("%s", message)
            return [], [message]

    def append(self, rows: Sequence[NightRow]) -> None:
        """Append rows by replacing the file."""
        write_rows(self.path, HISTORY, [vars(row) for row in [*self.read(), *rows]])


def plot(rows: Sequence[NightRow], path: Path) -> Path | None:
    """Write the plot of the last nights and return its path; None if there is no number to show."""
    nights = sorted({row.night for row in rows})[-NIGHTS_SHOWN:]
    lines: dict[str, list[NightRow]] = {}
    for row in rows:
        if row.status == OK and row.night in nights:
            lines.setdefault(row.name, []).append(row)
    if not lines:
        return None
    from matplotlib.figure import Figure  # pyplot would need a display and keep global state

    figure = Figure(figsize=(9, 5.5), layout="constrained", dpi=80)
    accuracy, speed = figure.subplots(2, 1, sharex=True)
    for name, line in lines.items():
        times = [_time(row.night) for row in line]
        accuracy.plot(times, [_nan_if_none(row.metric_percent) for row in line], marker=".", label=name)
        speed.plot(times, [_nan_if_none(row.questions_per_second) for row in line], marker=".")
    metrics = sorted({row.metric for line in lines.values() for row in line})
    accuracy.set_ylabel(f"{', '.join(metrics)} (%)")
    speed.set_ylabel("questions/s")
    speed.set_ylim(bottom=0)
    # Explicit limits, because matplotlib's limits for a single night span years.
    speed.set_xlim(_time(nights[0]) - HALF_A_DAY, _time(nights[-1]) + HALF_A_DAY)
    speed.tick_params(axis="x", rotation=30)
    for axes in (accuracy, speed):
        axes.grid(alpha=0.3)
    accuracy.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    with published(path) as part:
        figure.savefig(part, format="png")
    return path


def _time(night: str) -> datetime:
    return datetime.strptime(night[:19], "%Y-%m-%dT%H-%M-%S")


def _nan_if_none(value: float | None) -> float:
    return float("nan") if value is None else value
