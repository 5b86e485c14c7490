"""What is wrong with one file of a store, in words: its reader refuses it, or it contradicts the record it belongs to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from cache.arrays import ArrayFile
from cache.errors import SevilaError
from cache.files import open_file
from cache.record import Record
from cache.tables import read_head

PIECE_BYTES = 1 << 20  # read at once


def refusal(path: Path) -> str:
    """Return why a file's reader refuses it, which bytes as written do not exclude: somebody may have written the record, too."""
    try:
        if path.suffix == ".h5" and "pool" in path.parts[-5:-4]:  # artifacts of version 1 hold groups of arrays
            ArrayFile(path).close()
        elif path.suffix == ".parquet":
            read_head([path], 1)
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="np"):
                pass
    except (SevilaError, OSError, SafetensorError) as error:
        return message_of(error, path)
    return ""


def note_problem(path: Path, content: Mapping[str, Any], record: Record) -> str:
    """Return what of a whole note contradicts the record it belongs to."""
    known = all(record.files.get(name) == file for name, file in content.get("files", {}).items())
    if not known:
        return "names other files than the record"
    is_own = content.get("artifact", record.id) == record.id and str(content.get("shard", path.stem)).zfill(
        5
    ) == path.stem.zfill(5)
    return "" if is_own else "is of another artifact or shard"


def names_below(folder: Path) -> Iterator[str]:
    """Yield the files and links in a folder, at any depth, relative to it."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        for name in sorted([*names, *links]):
            yield (Path(parent) / name).relative_to(folder).as_posix()


def pieces(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file; raises `OSError`, also for what is no file."""
    with open_file(path) as stream:
        while piece := stream.read(PIECE_BYTES):
            yield piece


def message_of(error: Exception, path: Path) -> str:
    """Return what an error says of a file, without its path and the way out, which the summary gives."""
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    return str(error).removeprefix(f"{path}: ").split("; ")[0]
