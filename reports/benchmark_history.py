"""The history of a benchmark: one Parquet file, a row for each evaluated setting and night; and its trend as a picture."""

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
NIGHTS_SHOWN = 90  # in the picture
HALF_A_DAY = timedelta(hours=12)


@dataclass(frozen=True)
class NightRow:
    """One evaluation of one setting in one night; None and "" where it failed before.

    Attributes:
        night: when it began, in UTC: `2026-11-21T03-00-07.123Z`.
        recipe: its name, of a path the file's.
        way: which of a full chain's evaluations it is (`uniform, zero-shot`); empty where the chain has one.
        recipe_fingerprint: of the recipe with the setting's changes; another one begins a new line of comparison.
        status: ok or failed.
        answers: id in the night's own store; of moments, that of the retrieved ones.
        metric: accuracy, or R1@0.5 of moments.
        metric_percent: None where it failed, or no question has a known answer.
        stages: those that were run for it, with the seconds of each.
        questions_per_second: over those of `stages` that are not evaluation.
        peak_memory_bytes: of the process that ran them; `peak_gpu_memory_bytes` is None without a GPU.
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
        """The row's name for people, and the same every night."""
        return f"{self.recipe} {self.setting}" + (f": {self.way}" if self.way else "")


HISTORY = schema_of(1, NightRow, peak_memory_bytes="int64", peak_gpu_memory_bytes="int64")


def shown(night: str) -> str:
    """Return a night as people write it: `2026-11-21 03:00`."""
    return f"{night[:10]} {night[11:16].replace('-', ':')}"


class History:
    """The rows of all nights. Who appends holds the matrix' lock."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "history.parquet"

    def read(self) -> list[NightRow]:
        """Return all rows, in the order they came; raises `CorruptArtifactError` or `SchemaError` if the file is damaged."""
        return [NightRow(**row) for row in read_rows([self.path], HISTORY)] if self.path.exists() else []

    def read_or_set_aside(self, night: str) -> tuple[list[NightRow], list[str]]:
        """Return all rows, and notes for people: a damaged file gets another name, and a new one begins."""
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
        """Add rows; the file is replaced as a whole."""
        write_rows(self.path, HISTORY, [vars(row) for row in [*self.read(), *rows]])


def plot(rows: Sequence[NightRow], path: Path) -> Path | None:
    """Write the picture of the last nights and return its path; None without a number to show."""
    nights = sorted({row.night for row in rows})[-NIGHTS_SHOWN:]
    lines: dict[str, list[NightRow]] = {}
    for row in rows:
        if row.status == OK and row.night in nights:
            lines.setdefault(row.name, []).append(row)
    if not lines:
        return None
    from matplotlib.figure import Figure  # without pyplot: no window system is asked for, no global state kept

    picture = Figure(figsize=(9, 5.5), layout="constrained", dpi=80)
    accuracy, speed = picture.subplots(2, 1, sharex=True)
    for name, line in lines.items():
        times = [_time(row.night) for row in line]
        accuracy.plot(times, [_number(row.metric_percent) for row in line], marker=".", label=name)
        speed.plot(times, [_number(row.questions_per_second) for row in line], marker=".")
    metrics = sorted({row.metric for line in lines.values() for row in line})
    accuracy.set_ylabel(f"{', '.join(metrics)} (%)")
    speed.set_ylabel("questions/s")
    speed.set_ylim(bottom=0)
    # One night alone would get years around it.
    speed.set_xlim(_time(nights[0]) - HALF_A_DAY, _time(nights[-1]) + HALF_A_DAY)
    speed.tick_params(axis="x", rotation=30)
    for axes in (accuracy, speed):
        axes.grid(alpha=0.3)
    accuracy.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    with published(path) as part:
        picture.savefig(part, format="png")
    return path


def _time(night: str) -> datetime:
    return datetime.strptime(night[:19], "%Y-%m-%dT%H-%M-%S")


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
