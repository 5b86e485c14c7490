"""Reading the pool: an artifact's frames by video, from whatever parts hold them."""

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

OPEN_FILES = 128  # of one reader; a process may usually have 1024
OPEN_FRAMES = 8192  # in those files: HDF5 keeps a kilobyte of where each lies


class PoolReader:
    """Reads an artifact's frames by video id from the parts its table `parts` names, keeping some of them open."""

    def __init__(self, store: Store, space: str, parts: Mapping[str, np.ndarray]) -> None:
        """Begin to read.

        Args:
            parts: the columns of the table.

        Raises:
            CorruptArtifactError: no stage can have written the table.
        """
        self._store, self._space = store, space
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

    def another(self) -> PoolReader:
        """Return a reader of the same frames with open files of its own, for another thread or later."""
        reader = copy(self)
        reader._open = OrderedDict()
        return reader

    def read(self, video_id: str, rows: Sequence[int] | slice) -> np.ndarray:
        """Return the given frames (ascending rows of the artifact, or a slice) of one video: [rows, ...] in the stored dtype.

        Raises:
            CorruptArtifactError: a frame does not match its checksum, or its part is gone.
        """
        places = self._places[video_id]
        row_numbers = np.arange(self.n_rows(video_id))[rows] if isinstance(rows, slice) else np.asarray(rows)
        of_files, order = [], []
        for key, part, held, part_rows, indices in places:
            positions = np.flatnonzero(np.isin(row_numbers, held))
            if len(positions):
                file, chosen = self._file(key, part), np.searchsorted(held, row_numbers[positions])
                file.check(part_rows[chosen], indices[chosen])
                of_files.append(file.read(part_rows[chosen]))
                order.append(positions)
        if sum(map(len, order)) < len(row_numbers):
            raise CorruptArtifactError(
                f"video {video_id!r}: rows {rows} are not all in the parts of {self._space} that the artifact names; "
                "`sevila cache verify --all --drop` removes what is damaged, and the next run of its recipe makes it again"
            )
        if len(of_files) == 1:
            return of_files[0]
        frames = np.empty((len(row_numbers), *of_files[0].shape[1:]), of_files[0].dtype)
        for positions, of_file in zip(order, of_files, strict=True):
            frames[positions] = of_file
        return frames

    @property
    def videos(self) -> list[str]:
        """The ids of the videos that have frames here."""
        return list(self._places)

    def n_rows(self, video_id: str) -> int:
        """Return how many frames of a video there are."""
        return sum(len(held) for _, _, held, *_ in self._places[video_id])

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
            path = part_paths(holder(self._store, (self._space, key, part)), self._space, key, part)[0]
            if not path.exists():
                raise CorruptArtifactError(
                    f"{path}: gone from the pool, or left out of a pull, which can be repeated; {repair_hint(path)}"
                )
            file = open_part(path, (self._space, key, part))
        self._open[key, part] = file
        while len(self._open) > OPEN_FILES or (
            len(self._open) > 1 and sum(map(len, self._open.values())) > OPEN_FRAMES
        ):
            self._open.popitem(last=False)[1].close()
        return file


def open_part(path: Path, part: PartId) -> ArrayFile:
    """Open the array of a part; raises `CorruptArtifactError` if it is none of ours, or another part's."""
    file = ArrayFile(path)
    try:
        if problem := owner_problem(file.owner(), part):
            raise CorruptArtifactError(f"{path}: {problem}; {repair_hint(path)}")
    except CorruptArtifactError:
        file.close()
        raise
    return file


def arrays_digest(store: Store, record: Record, folder: Path) -> str:
    """Return the digest of all arrays that an artifact, which lies in `folder`, points to; empty for one without any.

    Only notes are read.

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


def holder(store: Store, part: PartId) -> Path:
    """Return the root of the store that a part of the pool is read from; one's own where none has it."""
    return next((root for root in store.roots if part_paths(root, *part)[0].exists()), store.root)


def is_there(store: Store, part: PartId) -> bool:
    """Whether any file of a part lies in the pool of the store, or of one below it."""
    return any(path.exists() or path.is_symlink() for root in store.roots for path in part_paths(root, *part))


def size_bytes(store: Store, ids: Iterable[str], parts: Iterable[PartId] = ()) -> int:
    """Return how many bytes there are to be read of artifacts, of their parts of the pool, and of other parts."""
    total, all_parts = 0, set(parts)
    for id in ids:
        with suppress(SevilaError, OSError):
            record = store.record(id)
            total += sum(file["size_bytes"] for file in record.files.values())
            all_parts |= references(store, record)
    for part in all_parts:
        with suppress(SevilaError, OSError):
            total += part_paths(holder(store, part), *part)[0].stat().st_size
    return total
