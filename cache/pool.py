"""The pool: arrays by content, shared by every artifact, recipe, data set and process that uses a store.

<root>/pool/<space>/<key[:2]>/<key>/<part>.h5      some frames of one video, see cache/arrays.py; never changed
<root>/pool/<space>/<key[:2]>/<key>/<part>.json    its note, written last: size, SHA-256, whose frames, facts about them

A space is what made the arrays: stage, version, config, encoder. A key is the content they were made from: a video. A part is
named after the frames it holds, so that a video of which other frames are wanted later gets another part with just those. A
part exists if and only if its note does. Which parts make up an artifact stands in its table `parts`.

Whose frames a part holds (space, key, indices) stands in the array file and in the note, and is held against where they lie.
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
    """One array of the pool: which frames of the video it holds, in order, and whatever was noted about them."""

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
        """Return the parts of a key, the store's own before those of the stores below it.

        Left out, with a warning, are damaged ones, and those of another key.
        """
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
                raise CorruptArtifactError(f"{path}: {size_bytes} bytes, wanted {content['file']['size_bytes']}")
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
        """Write a part of [<=n, *frame_shape] chunks, and return what publishes it; if the chunks raise, there is none.

        The caller has claimed the key. To sync and digest takes longer than to write, and any thread may do it.
        """
        owner = Owner(self.space, key, list(frame_indices))
        path, note = part_paths(self._store.root, self.space, key, fingerprint(owner.frame_indices))
        for left_over in path.parent.glob("*.part"):  # of a process that was killed at this key
            if not is_own_part(left_over):  # another thread may be publishing the part before this one
                left_over.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        with written(path) as part:
            array = write_array(part, owner, frame_shape, dtype, chunks)

        def finish() -> None:
            publish(part, path)
            content = {"size_bytes": path.stat().st_size, "sha256": file_digest(path)}
            write_note(note, {"file": content, "array": array, **owner._asdict(), "facts": dict(facts)})
            for folder in note.parents[1:4]:  # which may be new themselves
                sync(folder)

        return finish

    def withdraw(self, part: Part) -> None:
        """Take a part of the store's own out of the pool, whose frames the caller, who has claimed its key, writes again."""
        _, note = part_paths(self._store.root, self.space, part.key, part.name)
        note.unlink(missing_ok=True)

    def make(
        self, keys: Iterable[str], is_stored: Callable[[str], bool], work: Callable[[Iterator[str]], Iterable[str]]
    ) -> None:
        """Make what is missing, each key in one process at a time and once; returns when all are made or have failed.

        Args:
            keys: what is wanted, each once.
            is_stored: whether the pool holds all that is wanted of a key.
            work: takes keys as it gets to them, makes them, and yields each when it is done with it, made or failed. Only
                keys that it has taken and not yielded are locked: other processes make the others meanwhile.
        """
        from filelock import Timeout

        held: dict[str, FileLock] = {}
        others: list[str] = []
        over = False

        def claimed() -> Iterator[str]:
            for key in keys:
                if over:  # and a thread that reads ahead does not know yet
                    return
                if is_stored(key):
                    continue
                lock = self._lock(key)
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    others.append(key)
                    continue
                held[key] = lock
                if over or is_stored(key):  # by another process, since we looked
                    held.pop(key).release()
                else:
                    yield key

        try:
            for key in work(claimed()):
                held.pop(key).release()
            for key in others:
                with self._lock(key):  # until its maker has made it, has failed, or is dead
                    if not is_stored(key):
                        for _ in work(iter([key])):
                            pass
        finally:
            over = True
            for lock in list(held.values()):
                lock.release()

    def _lock(self, key: str) -> FileLock:
        # Taken by the thread that reads ahead, released by the one that writes.
        return self._store.lock(f"pool/{self.space}/{key}", thread_local=False)


def noted_owner(note: Mapping[str, Any]) -> Owner:
    """Return whose frames a part holds by its note; raises `KeyError` for a note that does not say it."""
    return Owner(*(note[name] for name in Owner._fields))


def owner_problem(owner: Owner, part: PartId) -> str:
    """Return how whose frames they are contradicts where they lie; empty if it does not."""
    is_at = "/".join((owner.space, owner.key, fingerprint(owner.frame_indices)))
    return "" if is_at == "/".join(part) else f"holds the frames of {is_at}, wanted those of {'/'.join(part)}"


def part_rows(video_id: str, frame_indices: Sequence[int], parts: Iterable[Part]) -> list[dict[str, Any]]:
    """Return the rows of table `parts` for one video with these frames, ascending, each frame from the first part that has it."""
    row_of = {index: row for row, index in enumerate(frame_indices)}
    rows_of_parts = []
    for part in parts:
        served = [(row_of.pop(index), place) for place, index in enumerate(part.frame_indices) if index in row_of]
        if served:
            rows = [row for row, _ in served]
            rows_of_parts.append({"video_id": video_id, "key": part.key, "part": part.name, "rows": rows})
            rows_of_parts[-1] |= {"frame_indices": [frame_indices[row] for row in rows]}
            rows_of_parts[-1] |= {"part_rows": [place for _, place in served]}
    assert not row_of, f"{video_id}: frames {sorted(row_of)} are in no part"
    return rows_of_parts


def part_paths(root: Path, space: str, key: str, part: str) -> tuple[Path, Path]:
    """Return where a part's array and its note lie in a store's root."""
    folder = _folder(root, space, key)
    if not is_name(part):
        raise CorruptArtifactError(f"{folder}: {part!r} is no name of a part of the pool; nothing of it is read")
    return folder / f"{part}.h5", folder / f"{part}.json"


def _folder(root: Path, space: str, key: str) -> Path:
    if not is_name(space) or not is_name(key):  # of an artifact that somebody made to read elsewhere
        raise CorruptArtifactError(f"{root}: {space!r}/{key!r} is no place in the pool; nothing of it is read")
    folder = root / "pool" / space / key[:2] / key
    refuse_link(folder, root)
    return folder
