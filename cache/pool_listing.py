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
    key="string",  # the content that they were made from: a video
    part="string",  # of the file with these frames, in the pool
    frame_indices="list<int64>",  # in the video, ascending
    rows="list<int32>",  # where these frames stand among the video's frames in the artifact, ascending
    part_rows="list<int32>",  # and where in the part
)

PartId = tuple[str, str, str]  # (space, key, part)


def every_part(root: Path) -> Iterator[PartId]:
    """Yield every part of which anything lies in a store's root, array or note."""
    for held in every_key(root):
        yield from ((held.space, held.key, name) for name in held.parts())


class Held(NamedTuple):
    """One key of the pool, its folder, and the names of the files there."""

    space: str
    key: str
    folder: str
    names: list[str]

    def parts(self) -> dict[str, list[str]]:
        """Return the files of each part, the note first: without it, there is no part."""
        files: dict[str, list[str]] = {}
        for name in sorted(self.names, reverse=True):
            stem, _, end = name.rpartition(".")
            if end in ("h5", "json") and is_name(stem):
                files.setdefault(stem, []).append(name)
        return dict(sorted(files.items()))


def every_key(root: Path) -> Iterator[Held]:
    """Yield every key of a store's root. Links are neither followed nor named, and what no pool would make is passed over."""
    for space, of_space in folders_in(root / "pool").items():
        for beginning in folders_in(of_space).values():
            for key, folder in folders_in(beginning).items():
                yield Held(space, key, folder, [entry.name for entry in os.scandir(folder) if not entry.is_symlink()])


def references(store: Store, record: Record, folder: Path | None = None) -> set[PartId]:
    """Return the parts that an artifact, in its place or in `folder`, is made up of; none for one that holds all its data."""
    if not record.pool:
        return set()
    folder = folder or store.path(record.id)
    files = [path_inside(folder, name) for name in sorted(record.files) if name.startswith("parts/")]
    columns = read_columns(files, PARTS, ("key", "part"))
    return {(record.pool, key, part) for key, part in zip(columns["key"], columns["part"], strict=True)}
