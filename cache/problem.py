"""Problems of a store: files that differ from what was written, that their readers refuse, or that contradict a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from cache.errors import SevilaError
from cache.record import Record
from cache.tables import read_head

ProblemKind = Literal["record", "file", "tables", "note", "part", "arrays", "gone", "stale", "name", "memory", "link"]


@dataclass(frozen=True)
class Problem:
    """One difference between a store and what was written.

    Attributes:
        id: the artifact it belongs to; for a part of the pool `space/key/part`, for a run its name.
        piece: the kind of thing: an artifact's record; a file that the record names; tables whose row counts differ from the
            record; a note or the plan in `progress/`; a part of the pool; an artifact's arrays taken together; an artifact
            that is gone, or stale; the name of a run; a cache of facts about files outside or of recent runs (memory); a link.
        name: the file, relative to the artifact, or the part.
        actual: what is at `path` instead of what is `expected`.
    """

    id: str
    piece: ProblemKind
    name: str
    path: Path
    actual: str
    expected: str

    def __str__(self) -> str:
        return f"{self.path}: {self.actual}; expected {self.expected}"


def refusal(path: Path) -> str:
    """Return why the reader of a file refuses it; empty if it does not. A matching checksum may come from a forged record."""
    try:
        if path.suffix == ".parquet":
            read_head([path], 1)
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="np"):
                pass
    except (SevilaError, OSError, SafetensorError) as error:
        return message_of(error, path)
    return ""


def note_problem(path: Path, content: Mapping[str, Any], record: Record) -> str:
    """Return how an undamaged note contradicts the record of its artifact; empty if it does not."""
    if any(record.files.get(name) != file for name, file in content.get("files", {}).items()):
        return "names other files than the record"
    shard = str(content.get("shard", path.stem))
    is_own = content.get("artifact", record.id) == record.id and shard.zfill(5) == path.stem.zfill(5)
    return "" if is_own else "belongs to another artifact or shard"


def message_of(error: Exception, path: Path) -> str:
    """Return the message of an error about a file, without its path and way out, which the summary gives."""
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    return str(error).removeprefix(f"{path}: ").split("; ")[0]


def as_written(file: Mapping[str, Any]) -> str:
    """Return a description of a file's entry in a record."""
    return f"{file['size_bytes']} bytes of SHA-256 {file['sha256'][:12]}..."
