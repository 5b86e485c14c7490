"""The pool: arrays by content, shared by every artifact, recipe, data set and process that uses a store.

<root>/pool/<space>/<key[:2]>/<key>/<part>.h5      some frames of one video, see cache/arrays.py; never changed
<root>/pool/<space>/<key[:2]>/<key>/<part>.json    its note, written last: size, SHA-256, whose frames, facts about them

A space is what made the arrays: stage, version, config, encoder. A key is the content they were made from: a video. A part is
named after the frames it holds, so that a video of which other frames are wanted later gets another part with just those. A
part exists if and only if its note does. Which parts make up an artifact stands in its table `parts`.

Whose frames a part holds (space, key, indices) stands in the array file and in the note, and is held against where they lie.
Parts written before they said so serve the artifacts that were made of them; for new artifacts they are made again, as nobody can
tell whether they lie where they were written.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.arrays import ArrayFile, Owner, write_array
from cache.errors import CorruptArtifactError, SevilaError, mend
from cache.files import publish, refuse_link, sync, written
from cache.fingerprint import file_digest, fingerprint
from cache.notes import read_note, write_note
from cache.pool_listing import PartId, references
from cache.record import Record
from cache.store import Store
from cache.untrusted import is_name

if TYPE_CHECKING:
    from filelock import FileLock

log = logging.getLogger("sevila")

OPEN_FILES = 128  # of one reader; a process may usually have 1024


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
        self._warned = False

    def parts(self, key: str) -> list[Part]:
        """Return the parts of a key, the store's own before those of the stores below it.

        Left out, with a warning, are damaged ones, those of another key, and those that do not say whose they are.
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
            if "space" not in content:
                self._warn_unmarked(note.parents[2])
                return None
            problem = owner_problem(noted_owner(content), (self.space, key, note.stem))
            if problem:
                raise CorruptArtifactError(problem)
            return Part(key, note.stem, path, content["frame_indices"], content["facts"])
        except (SevilaError, FileNotFoundError, KeyError, TypeError) as error:
            log.warning("%s: damaged (%s); it is made anew", note.with_suffix(".h5"), error)
            return None

    def _warn_unmarked(self, folder: Path) -> None:
        if not self._warned:
            log.warning(
                "%s: holds parts that were written before parts said whose they are; artifacts made of them go on reading them, "
                "but as they may have been moved since, they are made again for new ones",
                folder,
            )
        self._warned = True

    def add(
        self,
        key: str,
        frame_indices: Sequence[int],
        frame_shape: tuple[int, ...],
        dtype: str,
        pieces: Iterable[np.ndarray],
        facts: Mapping[str, Any],
    ) -> None:
        """Publish a part of [<=n, *frame_shape] pieces; if they raise, there is none. The caller has claimed the key."""
        self.write(key, frame_indices, frame_shape, dtype, pieces, facts)()

    def write(
        self,
        key: str,
        frame_indices: Sequence[int],
        frame_shape: tuple[int, ...],
        dtype: str,
        pieces: Iterable[np.ndarray],
        facts: Mapping[str, Any],
    ) -> Callable[[], None]:
        """The first half of `add`; return the other: to sync and digest takes longer than to write, and any thread may do it."""
        owner = Owner(self.space, key, list(frame_indices))
        path, note = part_paths(self._store.root, self.space, key, fingerprint(owner.frame_indices))
        for left_over in path.parent.glob("*.part"):  # of a process that was killed at this key
            left_over.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        with written(path) as part:
            array = write_array(part, owner, frame_shape, dtype, pieces)

        def finish() -> None:
            publish(part, path)
            content = {"size_bytes": path.stat().st_size, "sha256": file_digest(path)}
            write_note(note, {"file": content, "array": array, **owner._asdict(), "facts": dict(facts)})
            for folder in note.parents[1:4]:  # which may be new themselves
                sync(folder)

        return finish

    def make(
        self, keys: Iterable[str], is_stored: Callable[[str], bool], work: Callable[[Iterator[str]], Iterable[str]]
    ) -> None:
        """Make what is missing, each key in one process at a time and once; returns when all are made or have failed.

        Args:
            keys: what is wanted, each once.
            is_made: whether the pool holds all that is wanted of a key.
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


class PoolReader:
    """Reads an artifact's frames by video id from the parts its table `parts` names, keeping some of them open."""

    def __init__(self, store: Store, space: str, parts: Mapping[str, np.ndarray], unmarked: bool = False) -> None:
        """Begin to read.

        Args:
            parts: the columns of the table.
            unmarked: the artifact was made when parts did not say whose they are; that they then do not is no error.

        Raises:
            CorruptArtifactError: no stage can have written the table.
        """
        self._store, self._space, self._unmarked = store, space, unmarked
        self._places: dict[str, list[tuple[str, str, np.ndarray, np.ndarray, np.ndarray]]] = {}
        names = ("video_id", "key", "part", "rows", "part_rows", "frame_indices")
        for video_id, *place in zip(*(parts[name] for name in names), strict=True):
            _, _, held, in_part, indices = place
            if not len(held) == len(in_part) == len(indices) or min(in_part, default=0) < 0:
                raise CorruptArtifactError(
                    f"video {video_id!r}: rows {in_part} of a part of {space} cannot be rows {held} of the artifact; it was not "
                    "written by a stage: run its recipe again"
                )
            self._places.setdefault(video_id, []).append(tuple(place))
        self._open: OrderedDict[tuple[str, str], ArrayFile] = OrderedDict()

    def read(self, video_id: str, rows: Sequence[int] | slice) -> np.ndarray:
        """Return the given frames (ascending rows of the artifact, or a slice) of one video: [rows, ...] in the stored dtype.

        Raises:
            CorruptArtifactError: a frame does not match its checksum, or its part is gone.
        """
        places = self._places[video_id]
        n_rows = sum(len(held) for _, _, held, *_ in places)
        wanted = np.arange(n_rows)[rows] if isinstance(rows, slice) else np.asarray(rows)
        pieces, order = [], []
        for key, part, held, part_rows, indices in places:
            positions = np.flatnonzero(np.isin(wanted, held))
            if len(positions):
                file, chosen = self._file(key, part), np.searchsorted(held, wanted[positions])
                file.check(part_rows[chosen], indices[chosen])
                pieces.append(file.read(part_rows[chosen]))
                order.append(positions)
        if sum(map(len, order)) < len(wanted):
            raise CorruptArtifactError(
                f"video {video_id!r}: rows {rows} are not all in the parts of {self._space} that the artifact names; "
                "`sevila cache verify --all --drop` removes what is damaged, and the next run of its recipe makes it again"
            )
        if len(pieces) == 1:
            return pieces[0]
        frames = np.empty((len(wanted), *pieces[0].shape[1:]), pieces[0].dtype)
        for positions, piece in zip(order, pieces, strict=True):
            frames[positions] = piece
        return frames

    @property
    def videos(self) -> list[str]:
        """The ids of the videos that have frames here."""
        return list(self._places)

    def checksums(self, video_id: str) -> np.ndarray:
        """Return the checksum of each stored frame of one video, in the order of the artifact's rows: uint64 [rows].

        Raises:
            CorruptArtifactError: a part is gone.
        """
        places = self._places[video_id]
        checksums = np.zeros(sum(len(held) for _, _, held, *_ in places), "uint64")
        for key, part, held, part_rows, _ in places:
            checksums[held] = self._file(key, part).checksums[part_rows]
        return checksums

    def _file(self, key: str, part: str) -> ArrayFile:
        file = self._open.pop((key, part), None)
        if file is None:
            paths = [part_paths(root, self._space, key, part)[0] for root in self._store.roots]
            path = next((path for path in paths if path.exists()), None)
            if path is None:
                raise CorruptArtifactError(f"{paths[0]}: gone from the pool; {mend(paths[0])}")
            file = open_part(path, (self._space, key, part), self._unmarked)
        self._open[key, part] = file
        if len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        return file


def open_part(path: Path, part: PartId, unmarked: bool = False) -> ArrayFile:
    """Open the array of a part.

    Args:
        unmarked: that it does not say whose it is, as it was written before arrays did, is no error.

    Raises:
        CorruptArtifactError: it is none of ours, or another part's.
    """
    file = ArrayFile(path)
    try:
        owner = file.owner()
        problem = (
            ("" if unmarked else "does not say whose frames it holds") if owner is None else owner_problem(owner, part)
        )
        if problem:
            raise CorruptArtifactError(f"{path}: {problem}; {mend(path)}")
    except CorruptArtifactError:
        file.close()
        raise
    return file


def noted_owner(note: Mapping[str, Any]) -> Owner:
    """Return whose frames a part holds by its note; raises `KeyError` for a note of before notes said so."""
    return Owner(*(note[name] for name in Owner._fields))


def owner_problem(owner: Owner, part: PartId) -> str:
    """Return how whose frames they are contradicts where they lie; empty if it does not."""
    is_at = "/".join((owner.space, owner.key, fingerprint(owner.frame_indices)))
    return "" if is_at == "/".join(part) else f"holds the frames of {is_at}, wanted those of {'/'.join(part)}"


def arrays_digest(store: Store, record: Record, folder: Path) -> str:
    """Return the digest of all arrays that an artifact, which lies in `folder`, points to; empty for one without any.

    Only notes are read, but where one was written before notes knew it the array's checksums.

    Raises:
        CorruptArtifactError: a part is damaged, or gone.
    """
    if not record.pool:
        return ""
    digests = []
    for part in sorted(references(store, record, folder)):
        path, note = next(
            (paths for root in store.roots if (paths := part_paths(root, *part))[1].exists()),
            part_paths(store.root, *part),
        )
        try:
            content = read_note(note)
        except FileNotFoundError as error:
            raise CorruptArtifactError(f"{note}: gone from the pool; {mend(note)}") from error
        digest = content.get("array")
        if digest is None:
            file = open_part(path, part, unmarked=True)
            digest = file.digest()
            file.close()
        digests.append([*part[1:], digest])
    return fingerprint(digests)


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
