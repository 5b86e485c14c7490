"""Dropping the damaged pieces of a store, and only those, so that the next run of the recipe makes just these again.

An artifact with a damaged piece is unpublished: its folder moves back to the unfinished ones, where the next run keeps the
intact shards, as after a kill. An artifact without shards is removed as a whole. A damaged part of the pool is removed, and
the shards that point to it are made again from the remaining parts.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cache.errors import CorruptArtifactError, SevilaError, StoreError, sentence
from cache.files import refuse_link, refuse_links, remove_whole, sync
from cache.folders import folders_in, readable, stage_of
from cache.notes import read_note
from cache.pool import part_paths
from cache.pool_listing import PARTS, PartId
from cache.pool_reader import holder
from cache.problem import Problem, ProblemKind
from cache.record import DROPPED, PLAN, PROGRESS, RECORD, Record, describe_files
from cache.store import Store
from cache.tables import read_columns
from cache.untrusted import path_inside
from cache.verify import Verification

# Problems that only a user can repair, and how.
FOR_USER: dict[ProblemKind, str] = {
    "gone": "run its recipe again, which makes it",
    "stale": "run its recipe again, which rebuilds it",
    "name": "repeat its run with `--name {id} --replace` to write the name again, or remove it with `sevila runs rm {id}`",
    "link": "replace the link with its target, or delete it",
}


@dataclass
class Drops:
    """The removals for one verification: executed if `remove`, else only listed.

    Attributes:
        removals: a sentence for each removal.
        remaining: a sentence for each remaining problem, with the way out.
    """

    store: Store
    remove: bool
    removals: list[str] = field(default_factory=list)
    remaining: list[str] = field(default_factory=list)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Add an error of the block to the remaining problems."""
        try:
            yield
        except SevilaError as error:
            self.remaining.append(str(error))
        except OSError as error:
            self.remaining.append(sentence(error))

    def of(self, verification: Verification) -> None:
        """Drop the damaged pieces of a verification; intact ones are never removed.

        Each piece is verified again under its lock before its removal, as another process may have rebuilt it meanwhile.
        """
        parts: list[PartId] = []
        ids: list[str] = []
        for problem in verification.problems:
            if problem.piece in FOR_USER:
                self.remaining.append(f"{problem}; {FOR_USER[problem.piece].format(id=problem.id)}")
            elif problem.piece == "memory":
                self._file(problem.path, "the next run collects its entries again")
            elif problem.piece == "part":
                with self._refusals():
                    parts.append(_own_part(self.store, problem))
            else:
                ids.append(problem.id)
        ids = list(dict.fromkeys([*ids, *pointing(self.store, "artifacts", parts)]))
        for id in ids:
            with self._refusals(), self.store.lock(f"{id}/publish"):
                self._artifact(id, parts, verification)
        for id in pointing(self.store, "partial", parts) if self.remove else ():
            _forget_shards(self.store.partial(id), parts)
        for part in parts:
            with self._refusals(), self.store.lock(f"pool/{part[0]}/{part[1]}"):
                self._part(part)

    def _file(self, path: Path, consequence: str) -> None:
        self.removals.append(f"{path}: is removed; {consequence}")
        if self.remove:
            _remove(path)

    def _part(self, part: PartId) -> None:
        again = Verification(self.store)
        again.parts([part])
        if again.problems:
            path, note = part_paths(self.store.root, *part)
            if self.remove:
                _remove(note)  # first: without its note, there is no part
            self._file(path, "its note as well; the next run makes these frames again")

    def _artifact(self, id: str, parts: list[PartId], verification: Verification) -> None:
        again = Verification(self.store, checked_parts=set(verification.checked_parts))
        again.artifacts([id])
        problems = [problem for problem in again.problems if problem.id == id and problem.piece not in FOR_USER]
        folder, root = self.store.path(id), self.store.layer(id)
        has_dropped_parts = bool(_points_to(folder, parts))
        pieces = {problem.piece for problem in problems}
        if not (problems or has_dropped_parts):
            return
        if root != self.store.root:
            raise StoreError(f"{problems[0] if problems else id}; {_read_only_hint(root, id)}")
        refuse_links(folder)
        if pieces == {"note"} and not has_dropped_parts:
            for problem in problems:
                self._file(problem.path, "an intact artifact does not need it")
            return
        record = None if "record" in pieces else readable(root, id)
        shards = None if "tables" in pieces else _intact_shards(folder, record, parts)
        if shards is None and record is not None and all(_is_measured(problem, record) for problem in problems):
            way_out = f"`sevila stage {record.stage} RECIPE --again` rebuilds it"
            self.remaining += [
                f"{problem}; a measurement of the build of {id}, not content: {way_out}" for problem in problems
            ]
            return
        self.removals.append(f"{id}: {_message(shards)}")
        if self.remove:
            _unpublish(
                self.store, id, shards, {folder / problem.name for problem in problems if problem.piece == "file"}
            )


def _is_measured(problem: Problem, record: Record) -> bool:
    table = problem.name.split(".")[0].split("/")[0]
    return problem.piece == "file" and bool(record.schemas.get(table, {}).get("measured"))


def _own_part(store: Store, problem: Problem) -> PartId:
    """Return the part of a problem; raises `StoreError` if it is in a store below."""
    space, key, name = problem.id.split("/")
    root = holder(store, (space, key, name))
    if root != store.root:
        raise StoreError(f"{problem}; {_read_only_hint(root, problem.id)}")
    for path in part_paths(root, space, key, name):
        refuse_link(path, root)
    return space, key, name


def _read_only_hint(root: Path, name: str) -> str:
    return f"{root} is read-only here: `sevila cache verify {name} --drop --store {root}` drops it there"


def _message(shards: dict[int, bool] | None) -> str:
    if shards is None:
        return "is removed as a whole, as it has no intact plan of shards; the next run of its recipe makes it again"
    damaged = [str(number + 1) for number, is_intact in shards.items() if not is_intact]
    if not damaged:
        return "is unpublished; all its shards stay, and the next run of its recipe publishes it again"
    shards_text = (
        f"shards {', '.join(damaged)} of {len(shards)} are"
        if damaged[1:]
        else f"shard {damaged[0]} of {len(shards)} is"
    )
    return f"{shards_text} removed, all others stay; the next run of its recipe makes {'these' if damaged[1:] else 'this'} again"


def _intact_shards(folder: Path, record: Record | None, parts: list[PartId]) -> dict[int, bool] | None:
    """Return whether each shard of an artifact is intact; None if the artifact has no shards, or no intact plan of them."""
    try:
        plan = read_note(folder / PLAN)
    except (CorruptArtifactError, OSError):
        return None
    return {number: _is_intact(folder, number, record, parts) for number in range(len(plan["shards"]))}


def _is_intact(folder: Path, number: int, record: Record | None, parts: list[PartId]) -> bool:
    try:
        note = read_note(_note(folder, number))
        files = note["files"]
        for name in files:
            path_inside(folder, name)
        is_recorded = record is None or all(record.files.get(name) == file for name, file in files.items())
        return is_recorded and describe_files(folder, list(files)) == files and number not in _points_to(folder, parts)
    except (SevilaError, OSError, KeyError, TypeError):
        return False


def pointing(store: Store, folder_name: str, parts: list[PartId]) -> list[str]:
    """Return the ids of artifacts in a folder of the store's own root, such as `partial`, that point to any of the parts."""
    stages = {stage_of(space) for space, _, _ in parts}
    folders = folders_in(store.root / folder_name) if parts else {}
    return [id for id, folder in folders.items() if stage_of(id) in stages and _points_to(Path(folder), parts)]


def _points_to(folder: Path, parts: list[PartId]) -> set[int]:
    """Return the shards in an artifact's folder that point to any of these parts of the pool."""
    keys_and_parts, shards = {part[1:] for part in parts}, set()
    for table in sorted((folder / "parts").glob("*.parquet")) if parts else ():
        with suppress(SevilaError, OSError):  # a damaged table is a problem of its own
            note, columns = _note(folder, int(table.stem)), read_columns([table], PARTS, ("key", "part"))
            space = read_note(note).get("pool") if note.exists() else None  # the stage is the same in any case
            rows = zip(columns["key"], columns["part"], strict=True)
            if any(row in keys_and_parts and (not space or (space, *row) in parts) for row in rows):
                shards.add(int(table.stem))
    return shards


def _note(folder: Path, number: int) -> Path:
    return folder / PROGRESS / f"{number:05d}.json"


def _forget_shards(folder: Path, parts: list[PartId]) -> None:
    """Remove the notes of an unfinished artifact's shards that point to these parts, so that these are made again."""
    for number in _points_to(folder, parts):
        _note(folder, number).unlink(missing_ok=True)


def _unpublish(store: Store, id: str, shards: dict[int, bool] | None, damaged: set[Path]) -> None:
    """Turn an artifact into an unfinished one; a removed shard keeps its table of the parts of the pool that it will need."""
    folder, partial = store.path(id), store.partial(id)
    with suppress(FileNotFoundError):
        os.replace(folder / RECORD, folder / DROPPED)  # first: without its record, it is no artifact
    if shards is None:
        damaged = {entry for entry in folder.iterdir() if entry.name != DROPPED}
    for path in [*damaged, *(_note(folder, number) for number, is_intact in (shards or {}).items() if not is_intact)]:
        _remove(path)
    remove_whole(partial)
    partial.parent.mkdir(exist_ok=True)
    os.rename(folder, partial)
    for parent in (folder.parent, partial.parent):
        sync(parent)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
