"""Rereading every byte of artifacts and comparing it with what their records say was written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from cache.errors import CorruptArtifactError, SevilaError
from cache.notes import CHECKSUM, read_json, read_note
from cache.store import PROGRESS, RECORD, Record, Store, artifact_id
from cache.untrusted import inside

PIECE_BYTES = 1 << 20  # read at once

Piece = Literal["record", "file", "note", "plan"]


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it was written.

    Attributes:
        id: the artifact it belongs to.
        piece: what kind of thing it is: the record, a file that the record names, or a note or the plan in `progress/`.
        name: of the file, relative to the artifact.
        path: the file.
    """

    id: str
    piece: Piece
    name: str
    path: Path
    found: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.path}: {self.found}; wanted {self.wanted}"


@dataclass
class Verification:
    """Checks artifacts, and gathers what it finds.

    Attributes:
        read: is told the number of bytes of each piece that was read.
        problems: what is not as it was written.
        told: what else a person may want to know: files that no record names, inputs that the store does not hold.
    """

    store: Store
    read: Callable[[int], object] = lambda n_bytes: None
    problems: list[Problem] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    n_files: int = 0
    n_bytes: int = 0

    def artifacts(self, ids: Iterable[str]) -> None:
        """Check each artifact: its record, all its files, and what is kept of its making."""
        for id in ids:
            folder = self.store.path(id)
            record = self._record(id, folder)
            if record is not None:
                self._inputs(record)
                self._files(record, folder)
                self._progress(record, folder)
                self._others(record, folder)

    def digests(self) -> None:
        """Check what the store remembers of files outside it."""
        path = self.store.root / "digests.json"
        try:
            if CHECKSUM in read_json(path):
                read_note(path)
        except FileNotFoundError:
            return
        except (CorruptArtifactError, OSError) as error:
            self.told.append(f"{error}; the next run forgets it and identifies what lies outside anew")
        self.n_files += 1

    def _record(self, id: str, folder: Path) -> Record | None:
        path = folder / RECORD
        self.n_files += 1
        try:
            record = self.store.record(id)
            made = artifact_id(record.stage, record.version, record.config, record.inputs)
            found = "" if made == id else f"its stage, config and inputs have the id {made}"
        except (SevilaError, OSError) as error:
            found = _without(str(error), path)
        if not found:
            return record
        self._problem(id, "record", RECORD, path, found, "the record that was written")
        return None

    def _inputs(self, record: Record) -> None:
        # Of outside sources, which are identified by their content, the store holds none.
        for name, input in record.inputs.items():
            if input is not None and "-v" in input and not self.store.exists(input):
                self.told.append(f"{record.id}: the store does not hold its {name} {input}")

    def _files(self, record: Record, folder: Path) -> None:
        for name, wanted in record.files.items():
            try:
                path, problem = inside(folder, name), ""
                problem = self._differs(path, wanted)
            except CorruptArtifactError as error:
                path, problem = folder / name, str(error)
            if problem:
                told = f"{wanted['size_bytes']} bytes of SHA-256 {wanted['sha256'][:12]}..."
                self._problem(record.id, "file", name, path, problem, told)

    def _progress(self, record: Record, folder: Path) -> None:
        """Check the plan, the notes and the copy of the record, from which a damaged piece is repaired."""
        checked = read_json(folder / RECORD)["record_version"] > 1  # before that, notes had no checksum
        for path in sorted((folder / PROGRESS).glob("*.json")):
            self.n_files += 1
            try:
                content = read_note(path) if checked else read_json(path)
                found = _note_problem(path, content, record)
            except (CorruptArtifactError, OSError) as error:
                found = _without(str(error), path)
            if found:
                piece: Piece = "plan" if path.name == "plan.json" else "note"
                self._problem(record.id, piece, f"{PROGRESS}/{path.name}", path, found, "the note that was written")

    def _others(self, record: Record, folder: Path) -> None:
        known = {*record.files, RECORD}
        for name in _names(folder):
            if name not in known and not name.startswith(f"{PROGRESS}/"):
                self.told.append(f"{folder / name}: no record names this file")

    def _differs(self, path: Path, wanted: Mapping[str, Any]) -> str:
        """Return how a file differs from its size and SHA-256, having read all of it; empty if it does not."""
        self.n_files += 1
        try:
            size_bytes = path.stat().st_size
            if size_bytes != wanted["size_bytes"]:
                return f"{size_bytes} bytes"
            found = hashlib.sha256()
            for piece in _pieces(path):
                found.update(piece)
                self.n_bytes += len(piece)
                self.read(len(piece))
        except FileNotFoundError:
            return "it is gone"
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"
        return "" if found.hexdigest() == wanted["sha256"] else f"SHA-256 {found.hexdigest()[:12]}..."

    def _problem(self, id: str, piece: Piece, name: str, path: Path, found: str, wanted: str) -> None:
        self.problems.append(Problem(id, piece, name, path, found, wanted))


def size_bytes(store: Store, ids: Iterable[str]) -> int:
    """Return how many bytes the files of artifacts have by their records; those that cannot be read count nothing."""
    total = 0
    for id in ids:
        try:
            total += sum(file["size_bytes"] for file in store.record(id).files.values())
        except (SevilaError, OSError):
            continue
    return total


def _note_problem(path: Path, content: Mapping[str, Any], record: Record) -> str:
    """Return what of a whole note contradicts the record it belongs to."""
    if path.name == RECORD:
        return "" if content == asdict(record) else "another record than the artifact's"
    known = all(record.files.get(name) == file for name, file in content.get("files", {}).items())
    return "" if known else "names other files than the record"


def _names(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        for name in sorted([*names, *links]):
            yield (Path(parent) / name).relative_to(folder).as_posix()


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while piece := stream.read(PIECE_BYTES):
            yield piece


def _without(text: str, path: Path) -> str:
    return text.removeprefix(f"{path}: ").split("; ")[0]
