"""The history of a benchmark: one Parquet file, a row for each setting and night."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from cache.errors import CorruptArtifactError, SchemaError
from cache.tables import Schema, read_rows, write_rows
from pipeline.benchmarks.matrix import NightRow

log = logging.getLogger("sevila")

HISTORY = Schema(  # what they mean is said beside `pipeline.benchmarks.matrix.NightRow`
    1,
    night="string",
    recipe="string",
    setting="string",
    way="string",
    recipe_fingerprint="string",
    status="string",  # ok or failed
    reason="string",
    answers="string",  # id in the night's own store; of moments, that of the retrieved ones
    metrics="string",
    metric="string",
    metric_percent="float64",  # null where it failed, or no question has a known answer
    n_questions="int32",
    unanswered_percent="float64",
    stages="list<string>",
    stage_seconds="list<float64>",
    questions_per_second="float64",
    peak_memory_bytes="int64",
    peak_gpu_memory_bytes="int64",  # null without a GPU
    device="string",
    host="string",
    libraries="list<string>",
    git_revision="string",
)


class History:
    """The rows of all nights. Whoever appends holds the matrix' lock."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "history.parquet"

    def read(self) -> list[NightRow]:
        """Return all rows, in the order they came; raises `CorruptArtifactError` or `SchemaError` if the file is damaged."""
        return [NightRow(**row) for row in read_rows([self.path], HISTORY)] if self.path.exists() else []

    def read_or_set_aside(self, night: str) -> tuple[list[NightRow], str]:
        """Return all rows, and what to tell people: a damaged file is set aside under another name, and a new one begins."""
        try:
            return self.read(), ""
        except (CorruptArtifactError, SchemaError) as error:
            aside = self.path.with_name(f"history.damaged-{night}.parquet")
            os.replace(self.path, aside)
            reason = str(error).splitlines()[0].split("; ")[0]
            message = f"the history was damaged and is set aside as {aside}; a new one begins tonight ({reason})"
            log.warning("%s", message)
            return [], message

    def append(self, rows: Sequence[NightRow]) -> None:
        """Add rows; the file is replaced as a whole."""
        write_rows(self.path, HISTORY, [vars(row) for row in [*self.read(), *rows]])


assert tuple(HISTORY.columns) == tuple(field.name for field in dataclasses.fields(NightRow))
