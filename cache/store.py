"""The store: immutable artifacts in folders; an artifact exists if and only if its `record.json` does.

<root>/artifacts/<id>/record.json        written last, then the folder is renamed into place
<root>/partial/<id>/                      unfinished artifacts, kept after a kill so that finished shards are not repeated
<root>/pool/<space>/<key[:2]>/<key>/      arrays that artifacts point to, see cache/pool.py
<root>/locks/                             advisory locks; the operating system frees those of a dead process
<root>/pulled.json                        facts about pulled artifacts, see cache/pulled.py
<root>/digests.json                       cached SHA-256 of files outside the store, see cache/digests.py
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cache.digests import DigestCache
from cache.errors import CorruptArtifactError, StoreError, repair_hint
from cache.files import refuse_link, refuse_links, remove_whole, sync
from cache.fingerprint import file_digest
from cache.in_use import OWN_NAMES, alone, in_use
from cache.notes import write_note
from cache.record import DROPPED, PLAN, PROGRESS, RECORD, Record
from cache.stale import why_record_stale, why_stale
from cache.untrusted import is_name, path_inside

if TYPE_CHECKING:
    from cache.locks import NamedLock

log = logging.getLogger("sevila")

PULLED = "pulled.json"  # see cache/pulled.py
MAX_RECORDS = 1 << 14  # cached in memory, as chains read the same records repeatedly
SNAPSHOTS = "snapshots"  # folder in `progress` with a training's checkpoints, removed on publication
BESIDE_RECORD = (PLAN, DROPPED)


class Store:
    """The artifacts under one root folder, and those of read-only stores layered below it."""

    def __init__(self, root: Path, below: Sequence[Path] = ()) -> None:
        """Open a store; `below` are the roots of others, nearest first. Raises `StoreError` if one of them is no store."""
        if root.exists() and not root.is_dir():
            raise StoreError(f"{root} is a file; expected a folder, which may be new")
        for folder in below:
            if not (folder / "artifacts").is_dir():
                raise StoreError(
                    f"{folder} is not a store: it has no folder `artifacts`; --below expects existing stores"
                )
        self.root = root.absolute()
        self.roots = (self.root, *(folder.absolute() for folder in below))  # nearest first
        for path in [folder / name for folder in self.roots for name in OWN_NAMES]:
            refuse_link(path)
        own, *others = (folder / name for folder in self.roots for name in ("digests.json", PULLED))
        self.digests = DigestCache(own, others)
        # Records as read, with inode, mtime and size of their file, by root and artifact.
        self._records: dict[tuple[Path, str], tuple[tuple[int, ...], Record]] = {}
        self._locations: dict[str, tuple[Path, tuple[int, ...]]] | None = None  # cache of `_locate` within `one_look`
        self._hidden_below: set[str] = set()  # artifacts that are ignored in the stores below

    def path(self, artifact: str) -> Path:
        """Return the folder of an artifact, which need not exist."""
        if not is_name(artifact):
            raise StoreError(f"{artifact!r} is not an artifact id; `sevila cache ls` lists them")
        return self.layer(artifact) / "artifacts" / artifact

    def layer(self, artifact: str) -> Path:
        """Return the root of the store that holds an artifact; this store's own if none does."""
        return self._locate(artifact)[0]

    @contextmanager
    def one_look(self) -> Iterator[None]:
        """Locate each artifact only once while the block lists many; later changes are not seen within the block."""
        before, self._locations = self._locations, {}
        was_enabled = gc.isenabled()
        gc.disable()  # records hold no cycles, and collection among thousands takes a tenth of the time
        try:
            yield
        finally:
            self._locations = before
            if was_enabled:
                gc.enable()

    def _locate(self, artifact: str) -> tuple[Path, tuple[int, ...]]:
        """Return the root that holds an artifact, and inode, mtime and size of its record; the latter empty if none does."""
        if self._locations is None:
            return self._locate_on_disk(artifact)
        location = self._locations.get(artifact)
        if location is None:
            location = self._locations[artifact] = self._locate_on_disk(artifact)
        return location

    def _locate_on_disk(self, artifact: str) -> tuple[Path, tuple[int, ...]]:
        for root in self.roots if is_name(artifact) else ():
            folder = f"{root}/artifacts/{artifact}"
            try:
                status = os.lstat(f"{folder}/{RECORD}")
            except (FileNotFoundError, NotADirectoryError):
                continue
            if not (root is not self.root and artifact in self._hidden_below) and not os.path.islink(folder):
                return root, (status.st_ino, status.st_mtime_ns, status.st_size)
        return self.root, ()

    def partial(self, artifact: str) -> Path:
        """Return the folder of an unfinished artifact; raises `LinkError` if it, or the finished artifact's, is a link."""
        folder = self.root / "partial" / self.path(artifact).name
        refuse_link(self.own(artifact))
        refuse_link(folder)
        return folder

    def own(self, artifact: str) -> Path:
        """Return the folder of an artifact in this store, not in one below it; it need not exist."""
        return self.root / "artifacts" / self.path(artifact).name

    def exists(self, artifact: str) -> bool:
        """Return whether the artifact is published."""
        return bool(self._locate(artifact)[1])

    def record(self, artifact: str) -> Record:
        """Return the record of a published artifact; raises `StoreError` if there is none."""
        root, stamp = self._locate(artifact)
        if not stamp:
            refuse_link(self.own(artifact))
            raise StoreError(f"no artifact {artifact!r} in {self.root}; `sevila cache ls` lists all")
        known = self._records.get((root, artifact))
        if known is not None and known[0] == stamp:
            return known[1]
        path = f"{root}/artifacts/{artifact}/{RECORD}"  # a str, as pathlib is slow for ten thousand records
        record = Record.load(path)
        if record.id != artifact:
            raise CorruptArtifactError(f"{path}: is the record of {record.id}; {repair_hint(path)}")
        if len(self._records) >= MAX_RECORDS:
            self._records.clear()
        self._records[root, artifact] = stamp, record
        return record

    def checked_file(self, record: Record, name: str) -> Path:
        """Return the path of one of an artifact's files after verifying its SHA-256.

        Raises:
            CorruptArtifactError: the bytes do not match, or the record does not list the file.
        """
        path = path_inside(self.path(record.id), name)
        if name not in record.files:
            raise CorruptArtifactError(f"{path}: is not listed in its artifact's record; {repair_hint(path)}")
        if not path.is_file() or file_digest(path) != record.files[name]["sha256"]:
            raise CorruptArtifactError(f"{path}: its bytes do not match their checksum; {repair_hint(path)}")
        return path

    def of_stage(self, stage: str) -> list[Record]:
        """Return the records of a stage's artifacts, the newest first; damaged ones are skipped."""
        records = []
        for name in self:
            with suppress(CorruptArtifactError):
                records += [self.record(name)] if name.startswith(f"{stage}-v") else []
        return sorted(records, key=lambda record: record.finished, reverse=True)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.folders() if self.exists(name))

    def folders(self) -> list[str]:
        """Return the names of all artifact folders, with or without a record, in this store and those below."""
        folders = [root / "artifacts" for root in self.roots]
        names = {entry.name for folder in folders if folder.is_dir() for entry in os.scandir(folder)}
        return [name for name in sorted(names) if is_name(name)]  # skips hidden files, such as a desktop's

    def lost(self) -> list[str]:
        """Return the ids of the folders whose record is lost, without the remains of killed removals."""
        return [name for name in self.folders() if self.is_lost(name) and not self.is_remains(name)]

    def is_lost(self, name: str) -> bool:
        """Return whether an artifact has a folder, but no record."""
        return not self.exists(name) and self.own(name).is_dir() and not self.own(name).is_symlink()

    def is_remains(self, name: str) -> bool:
        """Return whether a folder is the remains of a killed removal: without record, plan and former record."""
        return self.is_lost(name) and not any((self.own(name) / path).exists() for path in BESIDE_RECORD)

    def lock(self, name: str, thread_local: bool = True) -> NamedLock:
        """Return a lock shared by all processes that use this store, see cache/locks.py.

        Lock files are never removed, as a process about to open one would fail, or lock an unlinked file.
        """
        from cache.locks import NamedLock  # here, as read-only commands need no locks

        path = self.root / "locks" / f"{name}.lock"
        refuse_link(path, self.root)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = NamedLock(path, thread_local=thread_local)
        lock.name = name
        return lock

    def in_use(self) -> AbstractContextManager[None]:
        """See cache/in_use.py."""
        return in_use(self.root)

    def alone(self) -> AbstractContextManager[None]:
        """See cache/in_use.py."""
        return alone(self.root)

    def publish(self, record: Record) -> None:
        """Turn the partial folder of `record.id` into the artifact: sync, write the record last, rename.

        The caller holds the artifact's `publish` lock and has checked that it is not published yet.
        """
        partial = self.partial(record.id)
        refuse_links(partial)
        for left_over in partial.rglob("*.part"):  # of killed processes
            left_over.unlink()
        for folder in [entry for entry in partial.rglob("*") if entry.is_dir()]:
            sync(folder)
        (partial / DROPPED).unlink(missing_ok=True)
        write_note(partial / RECORD, (record if record.content else record.sealed()).as_note())
        self.move_in(record.id, partial)

    def finish(self, artifact: str) -> bool:
        """Complete the publication by a process that was killed before its last step; return whether the artifact is current.

        A stale artifact is not published.
        """
        path = self.partial(artifact) / RECORD
        if path.exists():
            with self.lock(f"{artifact}/publish"), suppress(CorruptArtifactError, FileNotFoundError):
                record = Record.load(path)
                if record.id != artifact or why_record_stale(self, record, {}):
                    log.warning("%s: is stale; it is rebuilt", path.parent)
                    path.unlink()
                else:
                    refuse_links(path.parent)
                    self.move_in(artifact, path.parent)
        return self.is_current(artifact)

    def move_in(self, artifact: str, folder: Path) -> None:
        """Move a complete folder into the artifact's place; the caller holds its `publish` lock."""
        final = self.own(artifact)
        remove_whole(folder / PROGRESS / SNAPSHOTS)
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_whole(final)  # a folder without a record is no artifact
        os.rename(folder, final)
        sync(final.parent)

    def is_current(self, artifact: str) -> bool:
        """Return whether the artifact is published, and its inputs still have the content that it was made from."""
        return self.exists(artifact) and not self.why_stale(artifact)

    def why_stale(self, artifact: str, known: dict[str, str] | None = None) -> str:
        """Return which input's content has changed since a published artifact was made; empty if none, see cache/stale.py.

        Args:
            known: cache of results by id, for repeated calls.
        """
        return why_stale(self, artifact, {} if known is None else known)

    def hide_below(self, artifact: str) -> None:
        """Ignore an artifact in the stores below."""
        self._hidden_below.add(artifact)

    @contextmanager
    def hiding_below(self, names: Iterable[str]) -> Iterator[None]:
        """Ignore artifacts in the stores below while the block rebuilds them."""
        added = set(names) - self._hidden_below
        self._hidden_below |= added
        try:
            yield
        finally:
            self._hidden_below -= added


def remove_folder(folder: Path) -> None:
    """Delete an artifact's folder, its record first; the caller holds its `publish` lock."""
    remove_records(folder)
    remove_whole(folder)


def remove_records(folder: Path) -> None:
    """Unpublish an artifact before its removal; the record goes last, so that the remains do not count as a lost artifact."""
    for path in (*BESIDE_RECORD, RECORD):
        if not (folder / path).parent.is_symlink():
            (folder / path).unlink(missing_ok=True)


def stores_below() -> list[Path]:
    """Return the stores in SEVILA_STORE_BELOW, nearest first."""
    return [Path(folder) for folder in os.environ.get("SEVILA_STORE_BELOW", "").split(os.pathsep) if folder]
