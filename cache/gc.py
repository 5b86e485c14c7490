"""Housekeeping of a store: mark the artifacts of named runs and everything upstream of them, and sweep the rest.

Kept are the artifacts of named runs, those requested, and recent ones: made, or used by an unnamed run that may be resumed, in
the last days; and everything upstream of each. The parts of the pool that remaining artifacts point to are kept.
Stores that are layered above this one are not known here: the artifacts that they need must be in named runs.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from cache.dependencies import needed_parts, with_upstream
from cache.errors import CorruptArtifactError, SchemaError, StoreError
from cache.folders import changed_seconds, files_below, folders_in, readable, size_of, stage_of
from cache.id_prefixes import find
from cache.in_use import OWN_NAMES
from cache.names import NAMES, RECENT, named_run, names, read_named_run, run_files
from cache.pool_listing import PARTS, every_key
from cache.record import Record
from cache.store import Store, remove_records
from cache.tables import read_columns
from cache.upstream import inputs_first

OLDER_THAN_DAYS = 7.0  # default of `sevila cache gc`
DAY_SECONDS = 86400.0
REMOVERS = 8  # threads, as file systems serve several requests in parallel

Kind = Literal["artifact", "unfinished", "set aside", "pool part", "left-over", "lock"]
WHOLE_FOLDERS: tuple[Kind, ...] = ("artifact", "unfinished", "set aside")  # the others are files


@dataclass(frozen=True)
class Item:
    """Something to remove.

    Attributes:
        stage: the stage or pool space it belongs to; empty if none.
        depth: of an artifact, the length of the longest chain of artifacts upstream of it.
    """

    kind: Kind
    name: str
    stage: str
    size_bytes: int
    paths: tuple[str, ...]  # in the order of removal
    depth: int = 0


@dataclass(frozen=True)
class Survey:
    """The items that a sweep removes, and the reason for each kept artifact; `named`: whether any run has a name."""

    kept: dict[str, str]
    goes: list[Item]
    named: bool

    @property
    def size_bytes(self) -> int:
        """The bytes that the sweep frees."""
        return sum(item.size_bytes for item in self.goes)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        goes = [{"kind": i.kind, "name": i.name, "stage": i.stage, "size_bytes": i.size_bytes} for i in self.goes]
        return {"kept": self.kept, "goes": goes, "size_bytes": self.size_bytes}


def survey(store: Store, keep: Iterable[str] = (), older_than_days: float = OLDER_THAN_DAYS) -> Survey:
    """Return what a sweep of the store's own root would remove and keep, without removing anything.

    Args:
        keep: artifacts to keep, each an id or an unambiguous prefix of one.
        older_than_days: minimum age of removed items.

    Raises:
        StoreError: an artifact to keep does not exist, or only its folder without a record.
        CorruptArtifactError: a name, or the record or parts table of a kept artifact, cannot be read, so that its dependencies
            are unknown.
    """
    with store.one_look():
        return _survey(store, keep, older_than_days)


def _survey(store: Store, keep: Iterable[str], older_than_days: float) -> Survey:
    before = time.time() - older_than_days * DAY_SECONDS
    folders = folders_in(store.root / "artifacts")
    records = {id: record for id in folders if (record := readable(store.root, id)) is not None}
    reasons: dict[str, str] = {}
    requested_ids = [find(store, prefix) for prefix in keep]
    named = names(store.root)
    for name in named:
        reasons |= {pin.id: f"run {name}" for pin in named_run(store, name).artifacts if pin.id not in reasons}
    reasons |= {id: "--keep" for id in requested_ids if id not in reasons}
    old_runs = []
    for path in run_files(store.root, RECENT):
        if path.stat().st_mtime >= before:
            run = read_named_run(path)
            reasons |= {pin.id: f"a recent run of {run.recipe}" for pin in run.artifacts if pin.id not in reasons}
        else:
            old_runs.append(Item("left-over", f"{RECENT}/{path.name}", "", path.stat().st_size, (str(path),)))
    days = f"younger than {older_than_days:g} days"
    reasons |= {id: days for id, record in records.items() if id not in reasons and _finished(record) >= before}
    young = [id for id in folders if id not in records and id not in reasons and changed_seconds(folders[id]) >= before]
    young = [id for id in young if not store.is_remains(id)]
    reasons |= {id: days for id in young}
    kept = with_upstream(store, records, reasons)
    kept |= {id: days for id in young if id not in kept}
    goes = [*_artifacts(folders, records, kept), *_unfinished(store, kept, before)]
    removed_paths = {path for item in goes for path in item.paths}
    remaining = [records.get(id) or store.record(id) for id in kept if store.exists(id)]  # includes stores below
    goes += _parts(store, remaining, removed_paths, before)
    goes += [*old_runs, *_left_overs(store.root, removed_paths, before)]
    return Survey({id: why for id, why in kept.items() if id in folders}, goes, bool(named))


def sweep(
    store: Store, keep: Iterable[str] = (), older_than_days: float = OLDER_THAN_DAYS, unnamed: bool = False
) -> Survey:
    """Remove what `survey` lists, with exclusive use of the store, and return it. A kill leaves the store consistent.

    Raises:
        StoreError: the store is in use; or no run has a name, and not `unnamed`.
    """
    with store.alone():
        surveyed = survey(store, keep, older_than_days)
        if not (surveyed.named or unnamed):
            raise StoreError(
                f"no run in {store.root} has a name, so everything old would be removed: name the runs to keep (`sevila run "
                "RECIPE --name NAME` reuses existing artifacts), or give --unnamed"
            )
        with ThreadPoolExecutor(REMOVERS) as threads:
            # Records go first, dependents before their inputs: a folder without a record is no artifact.
            folders = [item for item in surveyed.goes if item.kind in WHOLE_FOLDERS]
            for depth in sorted({item.depth for item in folders}, reverse=True):
                paths = [Path(item.paths[0]) for item in folders if item.depth == depth]
                deque(threads.map(remove_records, paths), 0)
            deque(threads.map(_remove, surveyed.goes), 0)
        _drop_empty(store.root)
    return surveyed


def _remove(item: Item) -> None:
    for path in item.paths:
        try:
            os.unlink(path)
        except IsADirectoryError:
            shutil.rmtree(path)
        except FileNotFoundError:
            continue
    if item.kind == "pool part":
        with suppress(OSError):  # not empty
            os.rmdir(os.path.dirname(item.paths[0]))


def _artifacts(folders: dict[str, str], records: dict[str, Record], kept: dict[str, str]) -> list[Item]:
    """Return the artifacts to remove, the latest first."""
    depths: dict[str, int] = {}
    goes = [id for id in folders if id not in kept]
    goes.sort(key=lambda id: records[id].finished if id in records else "", reverse=True)
    sizes = {id: size_of(folders[id], records.get(id)) for id in goes}
    return [Item("artifact", id, stage_of(id), sizes[id], (folders[id],), _depth(id, records, depths)) for id in goes]


def _depth(id: str, records: dict[str, Record], known: dict[str, int]) -> int:
    def inputs_of(id: str) -> list[str]:
        return [input for input in records[id].inputs.values() if input in records] if id in records else []

    for upstream in inputs_first(id, inputs_of, known, 0):
        known[upstream] = 1 + max((known[input] for input in inputs_of(upstream)), default=0)
    return known[id]


def _unfinished(store: Store, kept: dict[str, str], before: float) -> Iterator[Item]:
    for kind, name in (("unfinished", "partial"), ("set aside", "aside")):
        for id, folder in folders_in(store.root / name).items():
            is_spare = kind == "set aside" and (store.root / "artifacts" / id / "record.json").exists()
            if (id not in kept or is_spare) and changed_seconds(folder) < before:
                yield Item(kind, id, stage_of(id), size_of(folder), (folder,))  # type: ignore[arg-type]


def _parts(store: Store, remaining: Iterable[Record], removed_paths: set[str], before: float) -> Iterator[Item]:
    """Yield the parts of the pool that no remaining or unfinished artifact points to, and partly written files."""
    used = {part for record in remaining for part in needed_parts(store, record)}
    begun = {
        part for folder in ("partial", "aside") for part in _parts_of_unfinished(store.root / folder, removed_paths)
    }
    for entry in every_key(store.root):
        for part, files in entry.parts().items():
            if (entry.space, entry.key, part) not in used and (entry.key, part) not in begun:
                paths = tuple(f"{entry.folder}/{name}" for name in files)
                stats = [os.lstat(path) for path in paths]
                if all(status.st_mtime < before for status in stats):
                    size_bytes = sum(status.st_size for status in stats)
                    yield Item("pool part", f"{entry.key}/{part}", entry.space, size_bytes, paths)
        for name in entry.names:
            if name.endswith(".part"):
                yield from _left_over(store.root, f"{entry.folder}/{name}", before)


def _parts_of_unfinished(folder: Path, removed_paths: set[str]) -> Iterator[tuple[str, str]]:
    """Yield (key, part) of all parts, in any space, that the unfinished artifacts in a folder point to."""
    for file in folder.glob("*/parts/*.parquet"):
        if str(file.parents[1]) not in removed_paths:
            with suppress(CorruptArtifactError, SchemaError):  # this shard is made again
                columns = read_columns([file], PARTS, ("key", "part"))
                yield from zip(columns["key"], columns["part"], strict=True)


def _left_overs(root: Path, removed_paths: set[str], before: float) -> Iterator[Item]:
    """Yield files that killed processes have partly written, and lock files, which are not in use during a sweep."""
    parts = [
        path for name in sorted(OWN_NAMES - {"pool"}) for path in files_below(f"{root}/{name}", ".part", removed_paths)
    ]
    for path in [*parts, *map(str, root.glob("digests.json.*.part"))]:  # other files in the root may be the user's
        yield from _left_over(root, path, before)
    for path in files_below(f"{root}/locks", ".lock", removed_paths):
        folder = os.path.dirname(path)
        is_of_store = folder == str(root / "locks")
        if not is_of_store and os.path.basename(folder) != NAMES and os.lstat(path).st_mtime < before:
            yield Item("lock", os.path.relpath(path, root), "", 0, (path,))


def _left_over(root: Path, path: str, before: float) -> Iterator[Item]:
    status = os.lstat(path)
    if status.st_mtime < before:
        yield Item("left-over", os.path.relpath(path, root), "", status.st_size, (path,))


def _drop_empty(root: Path) -> None:
    for name in ("pool", "locks"):
        for folder, _, files in os.walk(root / name, topdown=False):
            if not files and folder != str(root / name):
                with suppress(OSError):  # not empty
                    os.rmdir(folder)


def _finished(record: Record) -> float:
    try:
        return datetime.fromisoformat(record.finished).timestamp()
    except ValueError:
        return 0.0
