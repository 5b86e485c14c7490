"""The contents of the pool (cache/pool.py): every key and part of a store, and the parts that an artifact points to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cache.folders import folders_in
from cache.record import Record
from cache.store import Store
from cache.tables import Schema, read_columns
from cache.untrusted import is_name, path_inside

PARTS = Schema(
    1,
    video_id="string",
    key="string",  # the digest of the video that the frames were made from
    part="string",  # name of the file in the pool with these frames
    frame_indices="list<int64>",  # in the video, ascending
    rows="list<int32>",  # rows of these frames among the video's frames in the artifact, ascending
    part_rows="list<int32>",  # rows of these frames in the part
)

PartId = tuple[str, str, str]  # (space, key, part)


def every_part(root: Path) -> Iterator[PartId]:
    """Yield every part of which an array or a note exists in a store's root."""
    for entry in every_key(root):
        yield from ((entry.space, entry.key, name) for name in entry.parts())


class KeyFolder(NamedTuple):
    """The folder of one key of the pool, and the names of its files."""

    space: str
    key: str
    folder: str
    names: list[str]

    def parts(self) -> dict[str, list[str]]:
        """Return the files of each part, in the order of removal: the note first, as without it there is no part."""
        files: dict[str, list[str]] = {}
        for name in sorted(self.names, reverse=True):
            stem, _, suffix = name.rpartition(".")
            if suffix in ("h5", "json") and is_name(stem):
                files.setdefault(stem, []).append(name)
        return dict(sorted(files.items()))


def every_key(root: Path) -> Iterator[KeyFolder]:
    """Yield every key of a store's root; links and folders with unsafe names are skipped."""
    for space, space_folder in folders_in(root / "pool").items():
        for prefix_folder in folders_in(space_folder).values():
            for key, folder in folders_in(prefix_folder).items():
                names = [entry.name for entry in os.scandir(folder) if not entry.is_symlink()]
                yield KeyFolder(space, key, folder, names)


def references(store: Store, record: Record, folder: Path | None = None) -> set[PartId]:
    """Return the parts that an artifact, in its own folder or in `folder`, points to; none if it holds all its data."""
    if not record.pool:
        return set()
    folder = folder or store.path(record.id)
    files = [path_inside(folder, name) for name in sorted(record.files) if name.startswith("parts/")]
    columns = read_columns(files, PARTS, ("key", "part"))
    return {(record.pool, key, part) for key, part in zip(columns["key"], columns["part"], strict=True)}
