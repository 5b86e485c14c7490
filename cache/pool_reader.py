"""Reading the pool: an artifact's frames by video, collected from the parts that hold them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from pathlib import Path

import numpy as np

from cache.arrays import ArrayFile
from cache.errors import CorruptArtifactError, SevilaError, repair_hint
from cache.fingerprint import fingerprint
from cache.notes import read_note
from cache.pool import owner_problem, part_paths
from cache.pool_listing import PartId, references
from cache.record import Record
from cache.store import Store

OPEN_FILES = 128  # per reader; the usual limit of a process is 1024
OPEN_FRAMES = 8192  # in these files: HDF5 keeps about a kilobyte of index per frame


class PoolReader:
    """Reads an artifact's frames by video id from the parts in its table `parts`, and keeps some files open."""

    def __init__(self, store: Store, space: str, parts: Mapping[str, np.ndarray]) -> None:
        """Index the columns of the table `parts`; raises `CorruptArtifactError` if no stage can have written them."""
        self._store, self._space = store, space
        self._places: dict[str, list[tuple[str, str, np.ndarray, np.ndarray, np.ndarray]]] = {}
        names = ("video_id", "key", "part", "rows", "part_rows", "frame_indices")
        for video_id, *place in zip(*(parts[name] for name in names), strict=True):
            _, _, artifact_rows, part_rows, indices = place
            if not len(artifact_rows) == len(part_rows) == len(indices):
                raise CorruptArtifactError(
                    f"video {video_id!r}: rows {part_rows} of a part of {space} cannot be rows {artifact_rows} of the artifact; "
                    "it was not written by a stage: run its recipe again"
                )
            self._places.setdefault(video_id, []).append(tuple(place))
        self._open: OrderedDict[tuple[str, str], ArrayFile] = OrderedDict()

    def another(self) -> PoolReader:
        """Return a reader of the same frames with its own open files, for another thread or later use."""
        reader = copy(self)
        reader._open = OrderedDict()
        return reader

    def read(self, video_id: str, rows: Sequence[int] | slice) -> np.ndarray:
        """Return the given frames (ascending rows of the artifact, or a slice) of one video: [rows, ...] in the stored dtype.

        Raises:
            CorruptArtifactError: a frame does not match its checksum, or its part is gone.
        """
        row_numbers = np.arange(self.n_rows(video_id))[rows] if isinstance(rows, slice) else np.asarray(rows)
        chunks, positions_of_chunks = [], []
        for key, part, artifact_rows, part_rows, indices in self._places[video_id]:
            positions = np.flatnonzero(np.isin(row_numbers, artifact_rows))
            if len(positions):
                file, chosen = self._file(key, part), np.searchsorted(artifact_rows, row_numbers[positions])
                file.check(part_rows[chosen], indices[chosen])
                chunks.append(file.read(part_rows[chosen]))
                positions_of_chunks.append(positions)
        if sum(map(len, positions_of_chunks)) < len(row_numbers):
            raise CorruptArtifactError(
                f"video {video_id!r}: rows {rows} are not all in the artifact's parts of {self._space}; "
                "`sevila cache verify --all --drop` removes the damage, and the next run of its recipe makes it again"
            )
        if len(chunks) == 1:
            return chunks[0]
        frames = np.empty((len(row_numbers), *chunks[0].shape[1:]), chunks[0].dtype)
        for positions, chunk in zip(positions_of_chunks, chunks, strict=True):
            frames[positions] = chunk
        return frames

    @property
    def videos(self) -> list[str]:
        """The ids of the videos."""
        return list(self._places)

    def n_rows(self, video_id: str) -> int:
        """Return the number of a video's frames."""
        return sum(len(rows) for _, _, rows, *_ in self._places[video_id])

    def checksums(self, video_id: str) -> np.ndarray:
        """Return the checksum of each stored frame of one video, in the order of the artifact's rows: uint64 [rows].

        Raises:
            CorruptArtifactError: a part is gone.
        """
        checksums = np.zeros(self.n_rows(video_id), "uint64")
        for key, part, rows, part_rows, _ in self._places[video_id]:
            checksums[rows] = self._file(key, part).checksums[part_rows]
        return checksums

    def _file(self, key: str, part: str) -> ArrayFile:
        file = self._open.pop((key, part), None)
        if file is None:
            path = part_paths(root_of_part(self._store, (self._space, key, part)), self._space, key, part)[0]
            if not path.exists():
                raise CorruptArtifactError(
                    f"{path}: gone from the pool, or left out of a pull, which you can repeat; {repair_hint(path)}"
                )
            file = open_part(path, (self._space, key, part))
        self._open[key, part] = file
        while len(self._open) > OPEN_FILES or (
            len(self._open) > 1 and sum(map(len, self._open.values())) > OPEN_FRAMES
        ):
            self._open.popitem(last=False)[1].close()
        return file


def open_part(path: Path, part: PartId) -> ArrayFile:
    """Open the array of a part; raises `CorruptArtifactError` if the file is no such array, or another part's."""
    file = ArrayFile(path)
    try:
        if problem := owner_problem(file.owner(), part):
            raise CorruptArtifactError(f"{path}: {problem}; {repair_hint(path)}")
    except CorruptArtifactError:
        file.close()
        raise
    return file


def arrays_digest(store: Store, record: Record, folder: Path) -> str:
    """Return the digest of all arrays that an artifact in `folder` points to; empty if none. Only notes are read.

    Raises:
        CorruptArtifactError: a note is damaged, or gone.
    """
    if not record.pool:
        return ""
    digests = []
    for part in sorted(references(store, record, folder)):
        notes = [part_paths(root, *part)[1] for root in store.roots]
        note = next(filter(Path.exists, notes), notes[0])
        try:
            digests.append([*part[1:], read_note(note)["array"]])
        except (FileNotFoundError, KeyError) as error:
            raise CorruptArtifactError(f"{note}: gone from the pool, or damaged; {repair_hint(note)}") from error
    return fingerprint(digests)


def root_of_part(store: Store, part: PartId) -> Path:
    """Return the root from which a part of the pool is read: the nearest that has it, or else the store's own."""
    return next((root for root in store.roots if part_paths(root, *part)[0].exists()), store.root)


def has_part(store: Store, part: PartId) -> bool:
    """Return whether any file of a part exists in the pool of the store, or of one below it."""
    return any(path.exists() or path.is_symlink() for root in store.roots for path in part_paths(root, *part))


def size_bytes(store: Store, ids: Iterable[str], parts: Iterable[PartId] = ()) -> int:
    """Return the total size of artifacts, of their parts of the pool, and of other parts, each part counted once."""
    total, all_parts = 0, set(parts)
    for id in ids:
        with suppress(SevilaError, OSError):
            record = store.record(id)
            total += sum(file["size_bytes"] for file in record.files.values())
            all_parts |= references(store, record)
    for part in all_parts:
        with suppress(SevilaError, OSError):
            total += part_paths(root_of_part(store, part), *part)[0].stat().st_size
    return total
