"""The store: immutable artifacts in folders, each of which exists if and only if its `record.json` does.

<root>/artifacts/<id>/record.json        written last, then the whole folder is renamed into place
<root>/partial/<id>/                      work in progress, kept after a kill so that finished shards are not repeated
<root>/pool/<space>/<key[:2]>/<key>/      arrays by content that artifacts point into, see cache/pool.py
<root>/locks/                             advisory locks; the operating system frees a dead holder's
<root>/pulled.json                        what came with artifacts from elsewhere, see cache/pulled.py
<root>/digests.json                       SHA-256 of files outside the store, remembered by size, mtime and inode
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
MOST_RECORDS = 1 << 14  # kept in memory: chains ask for the same ones again and again
SNAPSHOTS = "snapshots"  # folder in it of a long work's states, which go when the artifact is published
BESIDE_RECORD = (PLAN, DROPPED)


class Store:
    """The artifacts under one root folder, and those of other stores below it, which are only read."""

    def __init__(self, root: Path, below: Sequence[Path] = ()) -> None:
        """`below` are the roots of other stores, nearest first; raises `StoreError` if one of them, or `root`, is no store."""
        if root.exists() and not root.is_dir():
            raise StoreError(f"{root} is a file; a store is a folder: give another one, which may be new")
        for folder in below:
            if not (folder / "artifacts").is_dir():
                raise StoreError(f"{folder} is no store to read from: it holds no folder `artifacts`")
        self.root = root.absolute()
        self.roots = (self.root, *(folder.absolute() for folder in below))  # nearest first
        for path in [folder / name for folder in self.roots for name in OWN_NAMES]:
            refuse_link(path)
        own, *others = (folder / name for folder in self.roots for name in ("digests.json", PULLED))
        self.digests = DigestCache(own, others)
        self._records: dict[tuple[Path, str], tuple[tuple[int, ...], Record]] = {}  # as read, by inode, time and size
        self._looks: dict[str, tuple[Path, tuple[int, ...]]] | None = None  # within `one_look`: what `_place` has seen
        self._hidden_below: set[str] = set()  # what the stores below hold of these does not count

    def path(self, artifact: str) -> Path:
        """Return the folder of a published artifact, whether or not it exists."""
        if not is_name(artifact):
            raise StoreError(f"{artifact!r} is not an artifact id; `sevila cache ls` lists them")
        return self.layer(artifact) / "artifacts" / artifact

    def layer(self, artifact: str) -> Path:
        """Return the root of the store that holds an artifact; one's own where none does."""
        return self._place(artifact)[0]

    @contextmanager
    def one_look(self) -> Iterator[None]:
        """Look for each artifact once while the block lists many: it sees each as it was then, changed meanwhile or not."""
        before, self._looks = self._looks, {}
        collects = gc.isenabled()
        gc.disable()  # records hold no cycles, and to look for some among thousands takes a tenth of the time
        try:
            yield
        finally:
            self._looks = before
            if collects:
                gc.enable()

    def _place(self, artifact: str) -> tuple[Path, tuple[int, ...]]:
        """Return the root that holds an artifact and what changes when its record does; nothing of that where none holds it."""
        if self._looks is None:
            return self._look(artifact)
        place = self._looks.get(artifact)
        if place is None:
            place = self._looks[artifact] = self._look(artifact)
        return place

    def _look(self, artifact: str) -> tuple[Path, tuple[int, ...]]:
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
        """Return the folder in which an artifact is being made; raises `StoreError` if a link has its place or the artifact's."""
        folder = self.root / "partial" / self.path(artifact).name
        refuse_link(self.own(artifact))
        refuse_link(folder)
        return folder

    def own(self, artifact: str) -> Path:
        """Return the folder that an artifact has, or would have, in this store and in none below it."""
        return self.root / "artifacts" / self.path(artifact).name

    def exists(self, artifact: str) -> bool:
        """Whether the artifact is published."""
        return bool(self._place(artifact)[1])

    def record(self, artifact: str) -> Record:
        """Return the record of a published artifact; raises `StoreError` if there is none."""
        root, stamp = self._place(artifact)
        if not stamp:
            refuse_link(self.own(artifact))
            raise StoreError(f"no artifact {artifact!r} in {self.root}; `sevila cache ls` lists what there is")
        known = self._records.get((root, artifact))
        if known is not None and known[0] == stamp:
            return known[1]
        path = f"{root}/artifacts/{artifact}/{RECORD}"  # as text: one of ten thousand
        record = Record.load(path)
        if record.id != artifact:
            raise CorruptArtifactError(f"{path}: is the record of {record.id}; {repair_hint(path)}")
        if len(self._records) >= MOST_RECORDS:
            self._records.clear()
        self._records[root, artifact] = stamp, record
        return record

    def checked_file(self, record: Record, name: str) -> Path:
        """Return the path of one of an artifact's files after comparing all of it with its SHA-256.

        Raises:
            CorruptArtifactError: the bytes are not those that were written.
        """
        path = path_inside(self.path(record.id), name)
        if name not in record.files:
            raise CorruptArtifactError(f"{path}: its record does not name it; {repair_hint(path)}")
        if not path.is_file() or file_digest(path) != record.files[name]["sha256"]:
            raise CorruptArtifactError(f"{path}: its bytes do not match their checksum; {repair_hint(path)}")
        return path

    def of_stage(self, stage: str) -> list[Record]:
        """Return the records of a stage's artifacts, the newest first; without damaged ones, which are no reason to stop."""
        records = []
        for name in self:
            with suppress(CorruptArtifactError):
                records += [self.record(name)] if name.startswith(f"{stage}-v") else []
        return sorted(records, key=lambda record: record.finished, reverse=True)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.folders() if self.exists(name))

    def folders(self) -> list[str]:
        """Return the names of all artifacts' folders, with or without a record, here and below."""
        folders = [root / "artifacts" for root in self.roots]
        names = {entry.name for folder in folders if folder.is_dir() for entry in os.scandir(folder)}
        return [name for name in sorted(names) if is_name(name)]  # desktops leave files of theirs

    def lost(self) -> list[str]:
        """Return the ids of the folders whose record is lost; not of what a removal that was killed leaves."""
        return [name for name in self.folders() if self.is_lost(name) and not self.is_remains(name)]

    def is_lost(self, name: str) -> bool:
        """Whether only the folder of an artifact is left, without its record."""
        return not self.exists(name) and self.own(name).is_dir() and not self.own(name).is_symlink()

    def is_remains(self, name: str) -> bool:
        """Whether a folder is what a removal that was killed leaves: no record, nor anything to make one of."""
        return self.is_lost(name) and not any((self.own(name) / path).exists() for path in BESIDE_RECORD)

    def lock(self, name: str, thread_local: bool = True) -> NamedLock:
        """Return a lock shared by all processes that use this store; who waits for it says so, see cache/locks.py.

        Lock files are never removed: a process about to open one would fail, or lock a file that nobody else sees.
        """
        from cache.locks import NamedLock  # here, as commands that only look need none

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

        The caller holds the artifact's `publish` lock and has seen that it is not published yet.
        """
        partial = self.partial(record.id)
        refuse_links(partial)
        for left_over in partial.rglob("*.part"):  # of processes that were killed while they wrote
            left_over.unlink()
        for folder in [entry for entry in partial.rglob("*") if entry.is_dir()]:
            sync(folder)
        (partial / DROPPED).unlink(missing_ok=True)
        write_note(partial / RECORD, (record if record.content else record.sealed()).as_note())
        self.move_in(record.id, partial)

    def finish(self, artifact: str) -> bool:
        """Publish what a process had only to move into place when it was killed; return whether the artifact is current now.

        What was made from inputs of other content than these have now is not published.
        """
        path = self.partial(artifact) / RECORD
        if path.exists():
            with self.lock(f"{artifact}/publish"), suppress(CorruptArtifactError, FileNotFoundError):
                record = Record.load(path)
                if record.id != artifact or why_record_stale(self, record, {}):
                    log.warning("%s: is not what its inputs make now; it is rebuilt", path.parent)
                    path.unlink()
                else:
                    refuse_links(path.parent)
                    self.move_in(artifact, path.parent)
        return self.is_current(artifact)

    def move_in(self, artifact: str, folder: Path) -> None:
        """Have a folder that holds all of an artifact be the artifact; the caller holds its `publish` lock."""
        final = self.own(artifact)
        remove_whole(folder / PROGRESS / SNAPSHOTS)
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_whole(final)  # a folder without a record is no artifact
        os.rename(folder, final)
        sync(final.parent)

    def is_current(self, artifact: str) -> bool:
        """Whether the artifact is published, and its inputs still have the content that it was made from."""
        return self.exists(artifact) and not self.why_stale(artifact)

    def why_stale(self, artifact: str, known: dict[str, str] | None = None) -> str:
        """Return which input has other content now than a published artifact was made from; see cache/stale.py.

        Args:
            known: why other artifacts are stale, for callers that ask for many.
        """
        return why_stale(self, artifact, {} if known is None else known)

    def hide_below(self, artifact: str) -> None:
        """Look away from what the stores below hold of an artifact."""
        self._hidden_below.add(artifact)

    @contextmanager
    def hiding_below(self, names: Iterable[str]) -> Iterator[None]:
        """Look away, while the block rebuilds these, from what the stores below hold of them."""
        more = set(names) - self._hidden_below
        self._hidden_below |= more
        try:
            yield
        finally:
            self._hidden_below -= more


def remove_folder(folder: Path) -> None:
    """Delete an artifact's folder, whose `publish` lock the caller holds; its record first."""
    remove_records(folder)
    remove_whole(folder)


def remove_records(folder: Path) -> None:
    """Turn an artifact into a folder that goes: the record last, so that what is left of it is no lost artifact."""
    for path in (*BESIDE_RECORD, RECORD):
        if not (folder / path).parent.is_symlink():
            (folder / path).unlink(missing_ok=True)


def stores_below() -> list[Path]:
    """Return the stores that SEVILA_STORE_BELOW names, nearest first."""
    return [Path(folder) for folder in os.environ.get("SEVILA_STORE_BELOW", "").split(os.pathsep) if folder]
