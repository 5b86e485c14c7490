"""One thing in a store that is not as it was written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
