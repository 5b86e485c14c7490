"""Checkpoints of long work, from which it resumes after a kill."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cache.files import published
from cache.fingerprint import file_digest
from cache.notes import read_note, write_note

log = logging.getLogger("sevila")

State = TypeVar("State")


@dataclass(frozen=True)
class Snapshots:
    """Numbered states from which long work resumes after a kill; not part of the artifact.

    A state is one file. It exists if and only if the note with its SHA-256 does, which is written last. The two newest states
    are kept, in case the newest is damaged. `header` identifies the work; states with another header are skipped.
    """

    folder: Path
    header: Mapping[str, Any] = field(default_factory=dict)

    def save(self, number: int, write: Callable[[Path], None]) -> None:
        """Save the state that `write` writes to a file, and delete all older states but one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for left_over in self.folder.glob("*.part"):  # of a killed process; there is only one writer at a time
            left_over.unlink()
        with published(self.folder / f"{number:09d}.state") as part:
            write(part)
        note = {"sha256": file_digest(self.folder / f"{number:09d}.state"), "number": number}
        write_note(self.folder / f"{number:09d}.json", {**note, **self.header})
        for old in self._numbers()[2:]:
            for suffix in (".json", ".state"):
                (self.folder / f"{old:09d}{suffix}").unlink()

    def newest(self, read: Callable[[Path], State]) -> State | None:
        """Return the newest undamaged state of this work, as read by `read`, or None; log a warning for each skipped one."""
        for number in self._numbers():
            path = self.folder / f"{number:09d}.state"
            try:
                note = read_note(path.with_suffix(".json"))
                digest = note.pop("sha256")
                if note != {"number": number, **self.header}:
                    problem = f"of other work ({note.get('artifact', 'not recorded')}, or of other inputs)"
                elif path.is_symlink() or file_digest(path) != digest:
                    problem = "damaged (its bytes do not match their checksum)"
                else:
                    return read(path)
            except (OSError, ValueError, KeyError) as error:
                problem = f"damaged ({error})"
            log.warning("%s: %s; resuming from the state before it", path, problem)
            path.with_suffix(".json").unlink(missing_ok=True)
        return None

    def _numbers(self) -> list[int]:
        names = [path.stem for path in self.folder.glob("*.json")]
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)
