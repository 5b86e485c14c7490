"""The pool: content-addressed arrays, shared by all artifacts, recipes, data sets and processes that use a store.

<root>/pool/<space>/<key[:2]>/<key>/<part>.h5      some frames of one video, see cache/arrays.py; never changed
<root>/pool/<space>/<key[:2]>/<key>/<part>.json    its note, written last: size, SHA-256, owner of the frames, facts about them

A space identifies the maker of the arrays: stage, version, config, encoder. A key identifies their source: a video. A part is
named after its frames; further frames of the same video become another part. A part exists if and only if its note does. An
artifact's table `parts` lists the parts that it consists of.

The owner of a part's frames (space, key, indices) is stored in the array file and in the note, and compared with their path.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.arrays import Owner, write_array
from cache.errors import CorruptArtifactError, SevilaError
from cache.files import is_own_part, publish, refuse_link, sync, written
from cache.fingerprint import file_digest, fingerprint
from cache.notes import read_note, write_note
from cache.pool_listing import PartId
from cache.store import Store
from cache.untrusted import is_name

if TYPE_CHECKING:
    from filelock import FileLock

log = logging.getLogger("sevila")


@dataclass(frozen=True)
class Part:
    """One array of the pool: the indices of its frames in the video, in order, and the facts noted about them."""

    key: str
    name: str
    path: Path
    frame_indices: list[int]
    facts: dict[str, Any]


class Pool:
    """One space of a store's pool."""

    def __init__(self, store: Store, space: str) -> None:
        self.space = space
        self._store = store

    def parts(self, key: str) -> list[Part]:
        """Return the parts of a key, the store's own first; damaged or misplaced parts are skipped with a warning."""
        parts: dict[str, Part] = {}
        for root in self._store.roots:
            for note in sorted(_folder(root, self.space, key).glob("*.json")):
                part = self._read(note, key)
                if part is not None:
                    parts.setdefault(part.name, part)
        return list(parts.values())

    def _read(self, note: Path, key: str) -> Part | None:
        try:
            content = read_note(note)
            path = note.with_suffix(".h5")
            size_bytes = path.stat().st_size
            if size_bytes != content["file"]["size_bytes"]:
                raise CorruptArtifactError(f"{path}: {size_bytes} bytes, expected {content['file']['size_bytes']}")
            problem = owner_problem(noted_owner(content), (self.space, key, note.stem))
            if problem:
                raise CorruptArtifactError(problem)
            return Part(key, note.stem, path, content["frame_indices"], content["facts"])
        except (SevilaError, FileNotFoundError, KeyError, TypeError) as error:
            log.warning("%s: damaged (%s); it is rebuilt", note.with_suffix(".h5"), error)
            return None

    def write(
        self,
        key: str,
        frame_indices: Sequence[int],
        frame_shape: tuple[int, ...],
        dtype: str,
        chunks: Iterable[np.ndarray],
        facts: Mapping[str, Any],
    ) -> Callable[[], None]:
        """Write a part from [<=n, *frame_shape] chunks, and return a function that publishes it, callable in any thread.

        The caller has claimed the key. Publishing, which syncs and digests, takes longer than writing.
        """
        owner = Owner(self.space, key, list(frame_indices))
        path, note = part_paths(self._store.root, self.space, key, fingerprint(owner.frame_indices))
        for left_over in path.parent.glob("*.part"):  # of a killed process
            if not is_own_part(left_over):  # another thread may be publishing the previous part
                left_over.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        with written(path) as part:
            array = write_array(part, owner, frame_shape, dtype, chunks)

        def finish() -> None:
            publish(part, path)
            content = {"size_bytes": path.stat().st_size, "sha256": file_digest(path)}
            write_note(note, {"file": content, "array": array, **owner._asdict(), "facts": dict(facts)})
            for folder in note.parents[1:4]:  # they may be new
                sync(folder)

        return finish

    def withdraw(self, part: Part) -> None:
        """Remove one of the store's own parts, to be written again; the caller has claimed its key."""
        _, note = part_paths(self._store.root, self.space, part.key, part.name)
        note.unlink(missing_ok=True)

    def make(
        self, keys: Iterable[str], is_stored: Callable[[str], bool], work: Callable[[Iterator[str]], Iterable[str]]
    ) -> None:
        """Make the missing keys, each in one process at a time and once; return when all are made or have failed.

        Args:
            keys: the requested keys, each once.
            is_stored: whether the pool holds everything requested of a key.
            work: takes keys one by one, makes them, and yields each finished one, made or failed. Only keys that it has taken
                and not yielded are locked, so that other processes can make the others.
        """
        from filelock import Timeout

        locks: dict[str, FileLock] = {}
        of_others: list[str] = []
        is_finished = False

        def claimed() -> Iterator[str]:
            for key in keys:
                if is_finished:  # a thread that reads ahead may still ask for keys
                    return
                if is_stored(key):
                    continue
                lock = self._lock(key)
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    of_others.append(key)
                    continue
                locks[key] = lock
                if is_finished or is_stored(key):  # by another process in the meantime
                    locks.pop(key).release()
                else:
                    yield key

        try:
            for key in work(claimed()):
                locks.pop(key).release()
            for key in of_others:
                with self._lock(key):  # waits until the other process has made it, has failed, or is dead
                    if not is_stored(key):
                        for _ in work(iter([key])):
                            pass
        finally:
            is_finished = True
            for lock in list(locks.values()):
                lock.release()

    def _lock(self, key: str) -> FileLock:
        # The thread that reads ahead acquires it, the one that writes releases it.
        return self._store.lock(f"pool/{self.space}/{key}", thread_local=False)


def noted_owner(note: Mapping[str, Any]) -> Owner:
    """Return the owner of a part's frames from its note; raises `KeyError` if the note lacks it."""
    return Owner(*(note[name] for name in Owner._fields))


def owner_problem(owner: Owner, part: PartId) -> str:
    """Return how the owner of a part's frames contradicts the part's place in the pool; empty if it does not."""
    actual = "/".join((owner.space, owner.key, fingerprint(owner.frame_indices)))
    return "" if actual == "/".join(part) else f"holds the frames of {actual}, expected those of {'/'.join(part)}"


def part_rows(video_id: str, frame_indices: Sequence[int], parts: Iterable[Part]) -> list[dict[str, Any]]:
    """Return the rows of table `parts` for one video with these ascending frames, each from the first part that has it."""
    row_of = {index: row for row, index in enumerate(frame_indices)}
    table = []
    for part in parts:
        used = [(row_of.pop(index), part_row) for part_row, index in enumerate(part.frame_indices) if index in row_of]
        if used:
            rows, part_rows = zip(*used, strict=True)
            table.append(
                {
                    "video_id": video_id,
                    "key": part.key,
                    "part": part.name,
                    "rows": list(rows),
                    "frame_indices": [frame_indices[row] for row in rows],
                    "part_rows": list(part_rows),
                }
            )
    assert not row_of, f"{video_id}: frames {sorted(row_of)} are in no part"
    return table


def part_paths(root: Path, space: str, key: str, part: str) -> tuple[Path, Path]:
    """Return the paths of a part's array and note in a store's root; raises `CorruptArtifactError` for unsafe names."""
    folder = _folder(root, space, key)
    if not is_name(part):
        raise CorruptArtifactError(f"{folder}: {part!r} is not the name of a part of the pool; it is not read")
    return folder / f"{part}.h5", folder / f"{part}.json"


def _folder(root: Path, space: str, key: str) -> Path:
    if not is_name(space) or not is_name(key):  # of an artifact that was forged to read other files
        raise CorruptArtifactError(f"{root}: {space!r}/{key!r} is not a folder of the pool; it is not read")
    folder = root / "pool" / space / key[:2] / key
    refuse_link(folder, root)
    return folder
