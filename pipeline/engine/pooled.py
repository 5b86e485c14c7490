"""Artifacts whose arrays lie in the store's pool."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from cache.errors import CorruptArtifactError
from cache.fingerprint import file_digest
from cache.pool_listing import PARTS
from cache.pool_reader import PoolReader
from cache.record import Record
from cache.store import Store
from pipeline.engine.stage import Artifact


class PooledArtifact(Artifact):
    """An artifact whose arrays lie in the store's pool; its table `parts` says where."""

    _reader: PoolReader | None = None

    def open(self) -> PoolReader:
        """Return a reader of the stored arrays by video id; the table is read once."""
        if self._reader is None:
            columns = self.columns("parts", *PARTS.columns)
            self._reader = PoolReader(self.store, self.record.pool, columns)
        return self._reader.another()

    def forget(self) -> None:
        """Also read again where the arrays lie."""
        super().forget()
        self._reader = None

    @classmethod
    def of_shard(cls, store: Store, record: Record, folder: Path) -> Self:
        """Return one finished shard of an unpublished artifact, as an artifact; raises `CorruptArtifactError` if it is damaged.

        Args:
            record: names the shard's files, rows and pool space only.
            folder: holds the files.
        """
        shard = cls(store, record.id)
        shard._record = record
        for name, file in record.files.items():
            if file_digest(folder / name) != file["sha256"]:
                raise CorruptArtifactError(f"{folder / name}: its bytes do not match their checksum")
            shard._checked[name] = folder / name
        return shard
