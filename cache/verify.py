"""Rereading every byte of artifacts, and comparing it with their records."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cache.errors import CorruptArtifactError, SevilaError
from cache.files import links_below
from cache.fingerprint import file_digest, fingerprint
from cache.names import NAMES, RECENT, every_name, known_uses, named_run, read_named_run, run_files
from cache.notes import read_note
from cache.pool import noted_owner, owner_problem, part_paths
from cache.pool_listing import PartId, references
from cache.pool_reader import arrays_digest, holder, open_part
from cache.problem import Problem, ProblemKind, as_written, message_of, note_problem, refusal
from cache.pulled import PULL_OR_MAKE, absent_parts
from cache.record import PROGRESS, RECORD, Record, artifact_id
from cache.store import PULLED, Store
from cache.tables import n_rows
from cache.untrusted import is_artifact_id, is_name, path_inside


@dataclass
class Verification:
    """Checks artifacts, and collects problems.

    Attributes:
        read: called with the size in bytes of each file that was read.
        problems: differences between the store and what was written.
        remarks: other facts for the user: files that no record lists, inputs that the store lacks.
        missing: ids of these inputs, which no named run needs, so that they are no problem.
        checked_parts: parts of the pool that were checked, or need not be; artifacts share parts.
    """

    store: Store
    read: Callable[[int], object] = lambda n_bytes: None
    problems: list[Problem] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)
    n_files: int = 0
    n_bytes: int = 0
    checked_parts: set[PartId] = field(default_factory=set)
    _checked_ids: set[str] = field(default_factory=set)
    _stale: dict[str, str] = field(default_factory=dict)

    def artifacts(self, ids: Iterable[str]) -> None:
        """Check each artifact once: its record, all its files, its parts of the pool, and the notes of its build."""
        for id in ids:
            if id in self._checked_ids:
                continue
            self._checked_ids.add(id)
            folder = self.store.path(id)
            record = self._record(id, folder)
            if record is not None:
                self._inputs(record)
                self._links(folder, record.files)
                if self._files(record, folder):
                    self._tables(record, folder)
                    self._pooled(record, folder)
                self._progress(record, folder)
                self._others(record, folder)

    def parts(self, parts: Iterable[PartId]) -> None:
        """Check parts of the pool, each once: note and array."""
        for part in sorted(set(parts) - self.checked_parts):
            self.checked_parts.add(part)
            path, note = part_paths(holder(self.store, part), *part)
            self.n_files += 1
            entry = None
            try:
                content = read_note(note)
                entry = content["file"]
                is_own = fingerprint(content["frame_indices"]) == part[2]
                problem = "" if is_own else "the frames in its note do not match its name"
                problem = problem or self._differs(path, entry) or self._owner(part, path, content)
            except FileNotFoundError:
                problem = f"its note {note.name} is gone"
            except (CorruptArtifactError, OSError, KeyError, TypeError) as error:
                problem = f"its note {note.name}: {message_of(error, note)}"
            if problem:
                expected = as_written(entry) if entry else "what was written"
                self._problem("/".join(part), "part", path.name, path, problem, expected)

    def _owner(self, part: PartId, path: Path, note: Mapping[str, Any]) -> str:
        """Return how a part contradicts its note or its place in the pool; empty if it does not."""
        try:
            file = open_part(path, part)
        except CorruptArtifactError as error:
            return message_of(error, path)
        is_noted = file.digest() == note["array"]
        file.close()
        return owner_problem(noted_owner(note), part) or ("" if is_noted else "its array does not match its note")

    def _links(self, folder: Path, known: Iterable[str] = ()) -> None:
        for path in links_below(folder):
            if path.relative_to(folder).as_posix() not in known:  # else reported as a problem of that file
                self._link(folder.name, path)

    def _link(self, id: str, path: Path) -> None:
        if all(problem.path != path for problem in self.problems):
            self._problem(id, "link", path.name, path, f"is a link to {os.readlink(path)}", "a file or folder")

    def other_files(self) -> None:
        """Check the rest of the store: links, folders without a record, names, and caches of facts about files outside it."""
        for name in ("pool", "partial", "aside", "locks", NAMES, RECENT, "demo", "benchmarks"):
            self._links(self.store.root / name)
        for folder in sorted((self.store.root / "artifacts").glob("*")):
            if folder.is_symlink():
                self._link(folder.name, folder)
            elif (
                folder.is_dir()
                and folder.name not in self._checked_ids
                and is_name(folder.name)
                and not (folder / RECORD).exists()
            ):
                self.remarks.append(f"{folder}: is no artifact, as it has no record; `sevila cache gc` removes it")
        root = self.store.root
        self._memory("memory", [root / "digests.json", root / PULLED, *run_files(root, RECENT)])
        self._memory("name", run_files(root, NAMES))
        strays = {path for folder in (NAMES, RECENT) for path in (root / folder).glob("*.json")}
        strays -= {*run_files(root, NAMES), *run_files(root, RECENT)}
        self.remarks += [f"{path}: is not a valid name of a run; the file is never read" for path in sorted(strays)]
        for name in every_name(self.store):
            with suppress(SevilaError, OSError):  # reported separately
                run = named_run(self.store, name)
                for pin in run.artifacts if run.status == "finished" else ():
                    if not self.store.exists(pin.id):
                        self._missing_artifact(pin.id, f"of the run {name}")

    def _memory(self, piece: ProblemKind, paths: Iterable[Path]) -> None:
        for path in paths:
            try:
                if path.parent.name in (NAMES, RECENT):
                    read_named_run(path)
                else:
                    read_note(path)
            except FileNotFoundError:
                continue
            except (CorruptArtifactError, OSError) as error:
                self._problem(path.stem, piece, path.name, path, message_of(error, path), "what was written")
            self.n_files += 1

    def _record(self, id: str, folder: Path) -> Record | None:
        path = folder / RECORD
        self.n_files += 1
        try:
            record = self.store.record(id) if path.exists() else Record.load(path)
            id_of_content = artifact_id(record.stage, record.version, record.config, record.inputs)
            problem = "" if id_of_content == id else f"its stage, config and inputs have the id {id_of_content}"
        except FileNotFoundError:
            problem = "is gone"
        except (SevilaError, OSError) as error:
            problem = message_of(error, path)
        if not problem:
            return record
        self._problem(id, "record", RECORD, path, problem, "the record that was written")
        return None

    def _inputs(self, record: Record) -> None:
        why = self.store.why_stale(record.id, self._stale)
        if why:
            self._problem(
                record.id, "stale", RECORD, self.store.path(record.id), why, "the content at the time of the build"
            )
        # Outside sources are never in the store.
        for name, input in record.inputs.items():
            if input is not None and is_artifact_id(input) and not self.store.exists(input):
                runs = sorted(self._runs.get(record.id, ()))
                if runs:
                    self._missing_artifact(input, f"that {record.id} of the run {runs[0]} was made from")
                else:
                    self.remarks.append(f"{record.id}: the store lacks its input {name} {input}")
                    self.missing.add(input)

    @cached_property
    def _runs(self) -> dict[str, set[str]]:
        return known_uses(self.store)[1]

    def _missing_artifact(self, id: str, why: str) -> None:
        path = self.store.path(id)
        if path.is_dir() and not path.is_symlink():  # only its record is gone
            self.artifacts([id])
        elif id not in self._checked_ids:
            self._checked_ids.add(id)
            if path.is_symlink():
                self._link(id, path)
            else:
                self._problem(id, "gone", id, path, "is gone", f"the artifact {why}")

    def _files(self, record: Record, folder: Path) -> bool:
        """Check the files that the record lists, and return whether all are intact."""
        n_before = len(self.problems)
        for name, entry in record.files.items():
            try:
                path = path_inside(folder, name)
                problem = self._differs(path, entry) or refusal(path)
            except CorruptArtifactError as error:
                path, problem = folder / name, str(error)
            if problem:
                self._problem(record.id, "file", name, path, problem, as_written(entry))
        return len(self.problems) == n_before

    def _tables(self, record: Record, folder: Path) -> None:
        """Check that every table exists, with the record's number of rows."""
        if record.is_stripped(folder):
            self._problem(record.id, "tables", RECORD, folder / RECORD, "lists no files", "those of its tables")
        for table, count in record.rows.items():
            names = [name for name in record.files if name.startswith((f"{table}.", f"{table}/"))]
            names = [name for name in names if name.endswith(".parquet")]
            n_rows_read = n_rows([folder / name for name in names])
            if not names or n_rows_read != count:
                problem = (
                    f"the table {table} has {n_rows_read} rows" if names else f"lists no file of the table {table}"
                )
                self._problem(record.id, "tables", RECORD, folder / RECORD, problem, f"{count} rows of {table}")

    def _pooled(self, record: Record, folder: Path) -> None:
        n_before = len(self.problems)
        try:
            absent = absent_parts(self.store, record, parts := references(self.store, record))
            self.parts(parts - absent)
            self.remarks += [f"{record.id}: was pulled without {len(absent)} arrays; {PULL_OR_MAKE}"] * bool(absent)
            digest = record.content.partition(".")[2]
            is_checkable = digest and not absent and len(self.problems) == n_before
            if is_checkable and arrays_digest(self.store, record, folder) != digest:
                actual, expected = "its arrays have changed", "those at the time of the build"
                self._problem(record.id, "arrays", RECORD, folder / RECORD, actual, expected)
        except SevilaError as error:  # a table that matches its record, but was not written by a stage
            self.remarks.append(f"{record.id}: {error}")

    def _progress(self, record: Record, folder: Path) -> None:
        """Check the plan and the notes of the shards, which a drop needs to identify intact shards."""
        if (folder / PROGRESS).is_symlink():  # reported as a link
            return
        for path in sorted((folder / PROGRESS).glob("*.json")):
            if not (path.stem.isdecimal() or path.name == "plan.json"):
                self.remarks.append(f"{path}: is not a note of a stage; it is never read")
                continue
            self.n_files += 1
            try:
                problem = note_problem(path, read_note(path), record)
            except (CorruptArtifactError, OSError) as error:
                problem = message_of(error, path)
            if problem:
                self._problem(record.id, "note", f"{PROGRESS}/{path.name}", path, problem, "the note that was written")

    def _others(self, record: Record, folder: Path) -> None:
        known = {*record.files, RECORD}
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if (path.is_symlink() or not path.is_dir()) and name not in known and not name.startswith(f"{PROGRESS}/"):
                self.remarks.append(f"{path}: is not listed in the record")

    def _differs(self, path: Path, entry: Mapping[str, Any]) -> str:
        """Return how a file differs from the size and SHA-256 of its entry, by reading all of it; empty if it does not."""
        self.n_files += 1
        try:
            size_bytes = path.stat().st_size
            if size_bytes != entry["size_bytes"]:
                return f"{size_bytes} bytes"
            digest = file_digest(path)
        except FileNotFoundError:
            return "is gone"
        except OSError as error:
            return message_of(error, path)
        self.n_bytes += size_bytes
        self.read(size_bytes)
        return "" if digest == entry["sha256"] else f"SHA-256 {digest[:12]}..."

    def _problem(self, id: str, piece: ProblemKind, name: str, path: Path, actual: str, expected: str) -> None:
        self.problems.append(Problem(id, piece, name, path, actual, expected))
