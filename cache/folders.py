"""The folders of a store's own root: which there are, what they take, when they changed."""

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
    """Return the stage that an artifact's id names."""
    return id.rsplit("-v", 1)[0]


def size_of(folder: Path | str, record: Record | None = None) -> int:
    """Return the size of an artifact in bytes: as its record has it, or by the files there are."""
    if record is not None:
        return sum(file["size_bytes"] for file in record.files.values())
    return sum(status.st_size for status in stats_below(folder) if not stat.S_ISDIR(status.st_mode))


def stats_below(folder: Path | str) -> Iterator[os.stat_result]:
    """Yield what the file system knows of a folder and all in it; what a run at work takes away meanwhile is passed over."""
    for place, _, files in os.walk(folder):
        for name in ("", *files):
            with suppress(FileNotFoundError):
                yield os.lstat(os.path.join(place, name))


def folders_in(folder: Path | str) -> dict[str, str]:
    """Return the folders in a folder, by name; none where there is no such folder, and none that a store would not make."""
    entries = os.scandir(folder) if os.path.isdir(folder) else ()
    names = [entry.name for entry in entries if is_name(entry.name) and entry.is_dir(follow_symlinks=False)]
    return {name: f"{folder}/{name}" for name in sorted(names)}


def readable(root: Path, id: str) -> Record | None:
    """Return the record of an artifact that lies in a root, None where it is missing or damaged."""
    try:
        record = Record.load(f"{root}/artifacts/{id}/{RECORD}")
    except (CorruptArtifactError, OSError):
        return None
    return record if record.id == id else None


def changed_seconds(folder: Path | str) -> float:
    """Return when anything in a folder changed last."""
    return max((status.st_mtime for status in stats_below(folder)), default=0.0)


def files_below(folder: str, suffix: str, gone: set[str]) -> Iterator[str]:
    """Yield the files of a suffix in a folder, at any depth but in `gone`; links to folders are not followed."""
    try:
        with os.scandir(folder) as entries:
            here = sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in here:
        if entry.is_dir(follow_symlinks=False):
            if entry.path not in gone:
                yield from files_below(entry.path, suffix, gone)
        elif entry.name.endswith(suffix) and not entry.is_dir():
            yield entry.path
