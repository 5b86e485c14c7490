"""The folders of a store's own root: names, sizes, times of change."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cache.errors import CorruptArtifactError
from cache.record import RECORD, Record
from cache.untrusted import is_name


def stage_of(id: str) -> str:
    """Return the stage in an artifact's id."""
    return id.rsplit("-v", 1)[0]


def size_of(folder: Path | str, record: Record | None = None) -> int:
    """Return the size of an artifact in bytes: from its record, or by the files in its folder."""
    if record is not None:
        return sum(file["size_bytes"] for file in record.files.values())
    return sum(status.st_size for status in stats_below(folder) if not stat.S_ISDIR(status.st_mode))


def stats_below(folder: Path | str) -> Iterator[os.stat_result]:
    """Yield the `lstat` results of a folder and everything in it; files that a run removes meanwhile are skipped."""
    for parent, _, files in os.walk(folder):
        for name in ("", *files):
            with suppress(FileNotFoundError):
                yield os.lstat(os.path.join(parent, name))


def folders_in(folder: Path | str) -> dict[str, str]:
    """Return the paths of subfolders, by name; none if the folder does not exist. Links and unsafe names are skipped."""
    entries = os.scandir(folder) if os.path.isdir(folder) else ()
    names = [entry.name for entry in entries if is_name(entry.name) and entry.is_dir(follow_symlinks=False)]
    return {name: f"{folder}/{name}" for name in sorted(names)}


def readable(root: Path, id: str) -> Record | None:
    """Return the record of an artifact in a root; None if it is missing or damaged."""
    try:
        record = Record.load(f"{root}/artifacts/{id}/{RECORD}")
    except (CorruptArtifactError, OSError):
        return None
    return record if record.id == id else None


def changed_seconds(folder: Path | str) -> float:
    """Return the time of the last change in a folder, in seconds since the epoch."""
    return max((status.st_mtime for status in stats_below(folder)), default=0.0)


def files_below(folder: str, suffix: str, skipped: set[str]) -> Iterator[str]:
    """Yield the files with a suffix in a folder, at any depth, except in folders `skipped`; links to folders are not followed."""
    try:
        with os.scandir(folder) as entries:
            sorted_entries = sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in sorted_entries:
        if entry.is_dir(follow_symlinks=False):
            if entry.path not in skipped:
                yield from files_below(entry.path, suffix, skipped)
        elif entry.name.endswith(suffix) and not entry.is_dir():
            yield entry.path
