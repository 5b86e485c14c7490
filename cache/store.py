"""The store: immutable artifacts in folders, each of which exists if and only if its `record.json` does.

<root>/artifacts/<id>/record.json        written last, then the whole folder is renamed into place
<root>/partial/<id>/                      work in progress, kept after a kill so that finished shards are not repeated
<root>/pool/<space>/<key[:2]>/<key>/      arrays by content that artifacts point into, see cache/pool.py
<root>/locks/                             advisory locks; the operating system frees a dead holder's
<root>/digests.json                       SHA-256 of files outside the store, remembered by size, mtime and inode
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from cache.digests import DigestCache
from cache.errors import CorruptArtifactError, StoreError, mend
from cache.files import sync
from cache.fingerprint import file_digest, fingerprint
from cache.notes import read_json, read_note, write_note
from cache.untrusted import inside, is_name, record_problem

RECORD_VERSION = 2
OWN_NAMES = {
    "artifacts",
    "partial",
    "pool",
    "aside",
    "locks",
    "names",
    "recent",
    "demo",
    "digests.json",
}  # in a store's root
PROGRESS = "progress"  # folder of a sharded artifact's plan and per-shard notes; not part of its content
RECORD = "record.json"  # its copy in the folder of progress is what a damaged one is mended from
SNAPSHOTS = "snapshots"  # folder in it of a long work's states, which go when the artifact is published


def artifact_id(stage: str, version: int, config: dict[str, Any], inputs: dict[str, str | None]) -> str:
    """Return `stage-v1-<20 hexadecimal digits>`: the identity of what this stage makes from this config and these inputs."""
    return f"{stage}-v{version}-{fingerprint({'config': config, 'inputs': inputs})}"


@dataclass(frozen=True)
class Record:
    """Everything known about one artifact; the content of `record.json`.

    Attributes:
        files: per file name, relative to the artifact: its size in bytes and SHA-256.
        rows: number of rows per table.
        dropped: number of rows that carry a failure, by reason code (`truncated`, `missing`, ...).
        phase_seconds: wall seconds per phase, summed over the processes that took part.
        pool: the pool space that its `parts` table points into (see cache/pool.py); empty where it holds all its data.
    """

    id: str
    stage: str
    version: int
    kind: str
    config: dict[str, Any]
    inputs: dict[str, str | None]
    schemas: dict[str, Any] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)
    git_revision: str | None = None
    host: str = ""
    device: str = ""
    started: str = ""
    finished: str = ""
    phase_seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    peak_gpu_memory_bytes: int = 0
    pool: str = ""
    record_version: int = RECORD_VERSION

    @classmethod
    def load(cls, path: Path) -> Record:
        """Read a record; one of version 1, which had neither checksum nor pool, is read as what it would be today.

        Raises:
            CorruptArtifactError: its bytes have changed, it was written by another version of the store, or has other fields.
        """
        way_out = mend(path)
        try:
            version = read_json(path).get("record_version")
            if version == 1:
                content = read_json(path) | {"pool": "", "record_version": RECORD_VERSION}
            elif version == RECORD_VERSION:
                content = read_note(path)
            else:
                raise CorruptArtifactError(f"{path}: record version {version}, wanted {RECORD_VERSION} or 1")
        except CorruptArtifactError as error:
            raise CorruptArtifactError(f"{error}; {way_out}") from error
        wanted = {entry.name for entry in dataclasses.fields(cls)}
        if content.keys() != wanted:
            differing = sorted(content.keys() ^ wanted)
            raise CorruptArtifactError(f"{path}: fields differ from a record's: {differing}; {way_out}")
        problem = record_problem(content)
        if problem:
            raise CorruptArtifactError(f"{path}: {problem}; it was not written by a stage: {way_out}")
        return cls(**content)


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
        own, *others = (root / "digests.json" for root in self.roots)
        self.digests = DigestCache(own, others)
        self._made_anew: set[str] = set()  # what the stores below hold of these does not count

    def path(self, artifact: str) -> Path:
        """Return the folder of a published artifact, whether or not it exists."""
        if not is_name(artifact):
            raise StoreError(f"{artifact!r} is not an artifact id; `sevila cache ls` lists them")
        return self.layer(artifact) / "artifacts" / artifact

    def layer(self, artifact: str) -> Path:
        """Return the root of the store that holds an artifact; one's own where none does."""
        for root in self.roots:
            folder = root / "artifacts" / artifact
            if not self.hides(root, artifact) and (folder / RECORD).exists() and not folder.is_symlink():
                return root
        return self.root

    def partial(self, artifact: str) -> Path:
        """Return the folder in which an artifact is being made; raises `StoreError` if a link has its place."""
        self._refuse_link(artifact)
        return self.root / "partial" / self.path(artifact).name

    def _own(self, artifact: str) -> Path:
        return self.root / "artifacts" / self.path(artifact).name

    def exists(self, artifact: str) -> bool:
        """Whether the artifact is published."""
        folder = self.path(artifact)
        return (folder / RECORD).exists() and not folder.is_symlink()

    def _refuse_link(self, artifact: str) -> None:
        folder = self._own(artifact)
        if folder.is_symlink():
            raise StoreError(
                f"{folder}: is a link to {os.readlink(folder)}, which may lie anywhere; wanted the folder itself: move it here, "
                "or delete the link and give the store that holds the artifact with --below"
            )

    def record(self, artifact: str) -> Record:
        """Return the record of a published artifact; raises `StoreError` if there is none."""
        if not self.exists(artifact):
            self._refuse_link(artifact)
            raise StoreError(f"no artifact {artifact!r} in {self.root}; `sevila cache ls` lists what there is")
        path = self.path(artifact) / RECORD
        record = Record.load(path)
        if record.id != artifact:
            raise CorruptArtifactError(f"{path}: is the record of {record.id}; {mend(path)}")
        return record

    def checked_file(self, record: Record, name: str) -> Path:
        """Return the path of one of an artifact's files after comparing all of it with its SHA-256.

        Raises:
            CorruptArtifactError: the bytes are not those that were written.
        """
        path = inside(self.path(record.id), name)
        if name not in record.files:
            raise CorruptArtifactError(f"{path}: its record does not name it; {mend(path)}")
        if not path.is_file() or file_digest(path) != record.files[name]["sha256"]:
            raise CorruptArtifactError(f"{path}: its bytes do not match their checksum; {mend(path)}")
        return path

    def matching(self, prefix: str, lost: bool = False) -> list[str]:
        """Return the artifacts whose id, or whose id's hexadecimal part, starts with `prefix`; only that one if it is an id.

        With `lost`, also those of which only the folder is left.

        Raises:
            StoreError: none does.
        """
        ids = [*self, *(self.lost(with_copy=False) if lost else ())]
        found = [name for name in ids if name.startswith(prefix) or name.rsplit("-", 1)[-1].startswith(prefix)]
        if not found:
            if is_name(prefix):
                self._refuse_link(prefix)
            raise StoreError(f"no artifact starts with {prefix!r} in {self.root}; `sevila cache ls` lists all")
        of_stage = [name for name in found if name.rsplit("-v", 1)[0] == prefix]  # evaluate, not evaluate_moments
        return [prefix] if prefix in found else of_stage or found

    def find(self, prefix: str) -> str:
        """Return the one artifact that `matching` finds; raises `StoreError` if it finds several."""
        found = self.matching(prefix)
        if len(found) > 1:
            raise StoreError(f"several artifacts start with {prefix!r}: {', '.join(found)}; give more of the id")
        return found[0]

    def newest(self, prefix: str) -> list[Record]:
        """Return the records of what `matching` finds, the newest first."""
        return sorted(
            (self.record(id) for id in self.matching(prefix)), key=lambda record: record.finished, reverse=True
        )

    def of_stage(self, stage: str) -> list[Record]:
        """Return the records of a stage's artifacts, the newest first; without damaged ones, which are no reason to stop."""
        found = []
        for name in self:
            with suppress(CorruptArtifactError):
                found += [self.record(name)] if name.startswith(f"{stage}-v") else []
        return sorted(found, key=lambda record: record.finished, reverse=True)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._folders() if self.exists(name))

    def _folders(self) -> list[str]:
        folders = [root / "artifacts" for root in self.roots]
        names = {entry.name for folder in folders if folder.is_dir() for entry in os.scandir(folder)}
        return [name for name in sorted(names) if is_name(name)]  # desktops leave files of theirs

    def lost(self, with_copy: bool = True) -> list[str]:
        """Return the ids of the folders that hold no record, though its copy is there; any without a record if not `with_copy`.

        What a removal that was killed leaves has neither.
        """
        return [
            name
            for name in self._folders()
            if not self.exists(name)
            and (folder := self._own(name)).is_dir()
            and not folder.is_symlink()
            and ((folder / PROGRESS / RECORD).exists() or not with_copy)
        ]

    def lock(self, name: str, thread_local: bool = True) -> FileLock:
        """Return a lock shared by all processes that use this store; it is freed when its holder dies.

        Lock files are never removed: a process about to open one would fail, or lock a file that nobody else sees.
        """
        path = self.root / "locks" / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path, thread_local=thread_local)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep `alone` out while the block makes or reads artifacts; any number of processes may be in it.

        Raises:
            StoreError: the root is a folder of other things.
        """
        self._refuse_foreign()
        with self._guard(fcntl.LOCK_SH):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Run a block while no run uses this store, to remove what nobody needs.

        Raises:
            StoreError: a run is at work, or the root is a folder of other things.
        """
        self._refuse_foreign()
        try:
            with self._guard(fcntl.LOCK_EX | fcntl.LOCK_NB):
                yield
        except BlockingIOError as error:
            raise StoreError(f"{self.root} is in use by a run; try again when it has finished") from error

    def _refuse_foreign(self) -> None:
        found = {name for name in os.listdir(self.root) if not name.startswith(".")} if self.root.is_dir() else set()
        if found - {"lost+found"} and not found & OWN_NAMES:
            told = ", ".join(sorted(found)[:3])
            raise StoreError(
                f"{self.root} holds other things ({told}) and no store: give a folder that is new or empty"
            )

    @contextmanager
    def _guard(self, kind: int) -> Iterator[None]:
        path = self.root / "locks" / "in_use.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+")  # NFS gives a shared lock only on a file that is open for reading, too
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            raise StoreError(
                f"{self.root} cannot be written: {error.strerror}; to read from it give a store of your own as well, "
                f"`--store FOLDER --below {self.root}`"
            ) from error
        with file:
            fcntl.flock(file, kind)
            yield

    def publish(self, record: Record) -> None:
        """Turn the partial folder of `record.id` into the artifact: sync, write the record last, rename.

        The caller holds the artifact's `publish` lock and has seen that it is not published yet.
        """
        partial = self.partial(record.id)
        for left_over in partial.rglob("*.part"):  # of processes that were killed while they wrote
            left_over.unlink()
        for folder in [entry for entry in partial.rglob("*") if entry.is_dir()]:
            sync(folder)
        (partial / PROGRESS).mkdir(exist_ok=True)
        write_note(partial / PROGRESS / RECORD, dataclasses.asdict(record))
        write_note(partial / RECORD, dataclasses.asdict(record))
        self._move_in(record.id)

    def finish(self, artifact: str) -> bool:
        """Publish what a process had only to move into place when it was killed; return whether the artifact exists now."""
        if (self.partial(artifact) / RECORD).exists():
            with self.lock(f"{artifact}/publish"), suppress(CorruptArtifactError, FileNotFoundError):
                Record.load(self.partial(artifact) / RECORD)
                self._move_in(artifact)
        return self.exists(artifact)

    def _move_in(self, artifact: str) -> None:
        partial, final = self.partial(artifact), self._own(artifact)
        shutil.rmtree(partial / PROGRESS / SNAPSHOTS, ignore_errors=True)
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(final, ignore_errors=True)  # a folder without a record is no artifact
        os.rename(partial, final)
        sync(final.parent)

    def aside(self, artifact: str) -> Path:
        """Return the folder in which an artifact lies while it is rebuilt."""
        return self.root / "aside" / self._own(artifact).name

    @contextmanager
    def set_aside(self, artifact: str) -> Iterator[None]:
        """Unpublish an artifact while the block rebuilds it; it comes back if that fails, or at the next try after a kill.

        One of a store below stays there; the rebuilt one is found before it.
        """
        own, aside = self._own(artifact), self.aside(artifact)
        with self.lock(f"{artifact}/publish"):
            shutil.rmtree(self.partial(artifact), ignore_errors=True)
            if own.exists():
                shutil.rmtree(aside, ignore_errors=True)
                aside.parent.mkdir(parents=True, exist_ok=True)
                os.rename(own, aside)
        try:
            with self.made_anew([artifact]):
                yield
        finally:
            if aside.exists() and not (own / RECORD).exists():
                os.rename(aside, own)
            shutil.rmtree(aside, ignore_errors=True)

    @contextmanager
    def made_anew(self, names: Iterable[str]) -> Iterator[None]:
        """Look away, while the block makes these anew, from what the stores below hold of them."""
        more = set(names) - self._made_anew
        self._made_anew |= more
        try:
            yield
        finally:
            self._made_anew -= more

    def hides(self, root: Path, name: str) -> bool:
        """Whether what the store of this root holds under a name does not count now."""
        return root != self.root and name in self._made_anew

    def made_from(self, artifact: str) -> list[str]:
        """Return the artifacts that were made from this one, directly or through others."""
        records = [self.record(name) for name in self]
        reached = {artifact}
        while True:
            more = {record.id for record in records if reached & set(record.inputs.values())} - reached
            if not more:
                return sorted(reached - {artifact})
            reached |= more

    def remove(self, artifact: str) -> None:
        """Delete an artifact of one's own: its record first, so that a kill leaves no artifact rather than half of one."""
        with self.lock(f"{artifact}/publish"):
            remove_records(self._own(artifact))
            shutil.rmtree(self._own(artifact), ignore_errors=True)


def remove_records(folder: Path) -> None:
    """Turn an artifact into a folder that goes: the record after its copy, from which it would be mended."""
    (folder / PROGRESS / RECORD).unlink(missing_ok=True)
    (folder / RECORD).unlink(missing_ok=True)


def stores_below() -> list[Path]:
    """Return the stores that SEVILA_STORE_BELOW names, nearest first."""
    return [Path(folder) for folder in os.environ.get("SEVILA_STORE_BELOW", "").split(os.pathsep) if folder]


def describe_files(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of files, as a record keeps them."""
    return {
        name: {"size_bytes": (folder / name).stat().st_size, "sha256": file_digest(folder / name)}
        for name in sorted(names)
    }
