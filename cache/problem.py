"""One thing in a store that is not as it was written: its reader refuses it, or it contradicts the record it belongs to."""

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
    """One thing that is not as it was written.

    Attributes:
        id: the artifact it belongs to; of a part of the pool, `space/key/part`.
        piece: what kind of thing it is: the record, a file that the record names, tables with other row counts than the record
            says, a note or the plan in `progress/`, a part of the pool, all arrays there together, an artifact that is gone as
            a whole or was made from what its inputs are no more, the name of a run, which then is the id, what else is only
            remembered, or a link.
        name: of the file, relative to the artifact, or of the part.
        path: the file.
        actual: what is there instead of what was `wanted`.
    """

    id: str
    piece: ProblemKind
    name: str
    path: Path
    actual: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.path}: {self.actual}; wanted {self.wanted}"


def refusal(path: Path) -> str:
    """Return why a file's reader refuses it, which bytes as written do not exclude: somebody may have written the record, too."""
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
    """Return what of a whole note contradicts the record it belongs to."""
    known = all(record.files.get(name) == file for name, file in content.get("files", {}).items())
    if not known:
        return "names other files than the record"
    is_own = content.get("artifact", record.id) == record.id and str(content.get("shard", path.stem)).zfill(
        5
    ) == path.stem.zfill(5)
    return "" if is_own else "is of another artifact or shard"


def message_of(error: Exception, path: Path) -> str:
    """Return what an error says of a file, without its path and the way out, which the summary gives."""
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    return str(error).removeprefix(f"{path}: ").split("; ")[0]


def as_written(file: Mapping[str, Any]) -> str:
    """Return in words what a record says of a file."""
    return f"{file['size_bytes']} bytes of SHA-256 {file['sha256'][:12]}..."
