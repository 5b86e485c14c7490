"""Artifacts as tables: Arrow, and pandas or polars if installed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.errors import SevilaError, did_you_mean
from cache.id_prefixes import newest
from cache.pool_reader import PoolReader
from cache.record import Record
from cache.store import Store, stores_below
from cache.tables import read_table
from pipeline.engine.pooled import PooledArtifact
from pipeline.engine.stage import Artifact
from stages.all import STAGES

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

PathLike = str | os.PathLike[str]
Below = PathLike | Iterable[PathLike]


class ArtifactTables:
    """One artifact and its tables, whose columns docs/tables.md describes. Reading a table verifies its checksum.

    Attributes:
        setting: distinguishes the chain's steps of one stage; empty if there is only one.
    """

    def __init__(self, artifact: Artifact, setting: str = "") -> None:
        self.setting = setting
        self._artifact = artifact

    def __repr__(self) -> str:
        tables = ", ".join(f"{name} [{self.record.rows.get(name, 0)} rows]" for name in self.tables)
        return f"<{self.id}{f' ({self.setting})' if self.setting else ''}: {tables or 'no table'}>"

    @cached_property
    def record(self) -> Record:
        """The record: config, inputs, files, seconds, libraries."""
        return self._artifact.record

    @property
    def id(self) -> str:
        """The id: stage, version, fingerprint of config and inputs."""
        return self.record.id

    @property
    def stage(self) -> str:
        """The name of the stage that made it."""
        return self.record.stage

    @property
    def path(self) -> Path:
        """The artifact's folder."""
        return self._artifact.path

    @property
    def tables(self) -> list[str]:
        """The names of the tables."""
        return list(self._artifact.tables)

    def arrow(self, table: str = "") -> pyarrow.Table:
        """Return a table; by default the one named after the artifact's kind, or the only one.

        Raises:
            SevilaError: there is no such table, or its bytes have changed.
        """
        name = self._named(table)
        return read_table(self._artifact.table_files(name), self._artifact.tables[name], self.record.rows.get(name, 0))

    def pandas(self, table: str = "") -> pandas.DataFrame:
        """Return a table as a pandas data frame, with lists as arrays; arguments as for `arrow`."""
        _optional("pandas")
        return self.arrow(table).to_pandas()

    def polars(self, table: str = "") -> polars.DataFrame:
        """Return a table as a polars data frame; arguments as for `arrow`."""
        frame: polars.DataFrame = _optional("polars").from_arrow(self.arrow(table))
        return frame

    def array(self, video_id: str, rows: slice | Sequence[int] = slice(None)) -> np.ndarray:
        """Return stored frames of one video, [rows, size, size, 3] uint8, or their features, [rows, P, D] float16.

        Args:
            rows: row numbers in any order, as in the column `rows` of keyframes; default: all.

        Raises:
            SevilaError: the artifact or the video has no frames, a row does not exist, or a frame is damaged.
        """
        reader = self._artifact.open() if isinstance(self._artifact, PooledArtifact) else None
        if reader is None or video_id not in reader.videos:
            missing = "no frames" if reader is None else f"no frames of video {video_id!r}"
            raise SevilaError(
                f"{self.id}: holds {missing}; artifacts of sample_frames and extract_features hold frames"
            )
        return _rows_of(reader, video_id, rows, f"{self.id}, video {video_id!r}")

    def _named(self, table: str) -> str:
        known, kind = self.tables, self._artifact.kind
        if not table and (kind in known or len(known) == 1):
            return kind if kind in known else known[0]
        if table not in known:
            problem = f"no table {table!r}{did_you_mean(table, known)}" if table else "several tables, name one"
            raise SevilaError(f"{self.id} has {problem}; tables: {', '.join(known) or 'none'}")
        return table


def _rows_of(reader: PoolReader, video_id: str, rows: slice | Sequence[int], problem: str) -> np.ndarray:
    if isinstance(rows, slice):
        return reader.read(video_id, rows)
    numbers, n_rows = np.asarray(rows), reader.n_rows(video_id)
    if not numbers.size:
        return reader.read(video_id, slice(0, 1))[:0]
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() >= n_rows:
        raise SevilaError(f"{problem}: rows are {rows!r}; expected a list of numbers from 0 to {n_rows - 1}")
    return reader.read(video_id, numbers.tolist())


def artifact(id: str, *, store: PathLike | None = None, below: Below = ()) -> ArtifactTables:
    """Return the newest artifact whose id starts with `id`, as `sevila cache show`: `artifact("answer_questions")`.

    Args:
        store: folder of the artifacts; default: SEVILA_STORE, or .sevila in the current folder.
        below: one or several read-only stores below it, in addition to those in SEVILA_STORE_BELOW.

    Raises:
        SevilaError: there is none.
    """
    artifacts = open_store(store, below)
    record = newest(artifacts, id)[0]
    if record.stage not in STAGES:
        raise SevilaError(
            f"{record.id}: this version has no stage {record.stage!r}; its files are in {artifacts.path(record.id)}"
        )
    return ArtifactTables(STAGES[record.stage].output(artifacts, record.id))


def open_store(store: PathLike | None, below: Below = ()) -> Store:
    """Return the store of a folder, layered over those below it; arguments as for `artifact`."""
    root = Path(os.environ.get("SEVILA_STORE", ".sevila") if store is None else store)
    folders = [below] if isinstance(below, str | os.PathLike) else below
    return Store(root, [*map(Path, folders), *stores_below()])


def _optional(library: str) -> Any:
    try:
        return import_module(library)
    except ImportError as error:
        raise SevilaError(f'{library} is not installed: pip install "sevila-pipeline[{library}]"') from error
