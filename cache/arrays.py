"""HDF5 files of one array each, [frames, ...]: one chunk and one checksum per frame.

`data` holds the frames and `checksum` the xxh3-64 of each frame's bytes, so that reading four frames of a video checks those
four. The file also identifies its frames: `frame_indices` in the video, and the attributes `space` and `key` of the pool
(cache/pool.py). These need no checksum: readers compare them with the file's path, whose name is a digest of the indices.
A file never changes.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xxhash

from cache.errors import CorruptArtifactError, repair_hint
from cache.fingerprint import fingerprint
from cache.hdf5 import array, open_arrays, short_text
from cache.lazy import Lazy

if TYPE_CHECKING:
    import h5py
else:
    h5py = Lazy("h5py")

DTYPES = ("uint8", "float16", "float32")
SPARE_BYTES = 1 << 20  # for HDF5's own caches and tables, which it writes beside the frames


class Owner(NamedTuple):
    """The owner of an array's frames: their pool space and key, and their indices in the video, ascending."""

    space: str
    key: str
    frame_indices: list[int]


def write_array(
    path: Path, owner: Owner, frame_shape: tuple[int, ...], dtype: str, chunks: Iterable[np.ndarray]
) -> str:
    """Write the owner's frames, of one of `DTYPES`, from [<=n, *frame_shape] chunks, and return the array's digest.

    Args:
        path: the file, which the caller syncs, and removes on an error (cache/files.py, `written`).

    Raises:
        ValueError: the number or shape of the frames in the chunks differs from the owner's.
        OSError: the disk is full.
    """
    n_frames = len(owner.frame_indices)
    checksums = np.zeros(n_frames, "uint64")
    n_written = 0
    # A frame is a chunk and written once: HDF5's cache of chunks would only copy it.
    with h5py.File(path, "w", rdcc_nbytes=0) as file:
        data = file.create_dataset("data", (n_frames, *frame_shape), dtype, chunks=(1, *frame_shape))
        for chunk in chunks:
            frames = np.ascontiguousarray(chunk, dtype=dtype)
            end = n_written + len(frames)
            if frames.shape[1:] != frame_shape or end > n_frames:
                shape = f"frames of shape {frames.shape} after {n_written}"
                raise ValueError(f"got {shape}, expected {n_frames} of {frame_shape}")
            _check_space(path.parent, frames.nbytes)
            data[n_written:end] = frames
            checksums[n_written:end] = [_checksum(frame) for frame in frames]
            n_written = end
        if n_written != n_frames:
            raise ValueError(f"got {n_written} frames, expected {n_frames}")
        file.create_dataset("checksum", data=checksums)
        file.create_dataset("frame_indices", data=np.array(owner.frame_indices, "int64"))
        file.attrs["space"], file.attrs["key"] = np.bytes_(owner.space), np.bytes_(owner.key)
    return _digest(dtype, frame_shape, checksums)


class ArrayFile:
    """Reads frames of one file, and checks each frame that it reads."""

    def __init__(self, path: Path) -> None:
        """Open a file; raises `CorruptArtifactError` if it is no array of plain numbers with one checksum per frame."""
        self._path = path
        self._file = open_arrays(path)
        self._indices: np.ndarray | None = None
        try:
            self._data, self._checksum = array(self._file, "data", DTYPES), array(self._file, "checksum", ("uint64",))
            if self._data.ndim == 0 or self._checksum.shape != self._data.shape[:1]:
                shapes = f"data of shape {self._data.shape}, checksum {self._checksum.shape}"
                raise CorruptArtifactError(f"{path}: {shapes}, expected one per frame; {repair_hint(path)}")
        except CorruptArtifactError:
            self._file.close()
            raise

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._data)

    def read(self, rows: Sequence[int] | np.ndarray | slice) -> np.ndarray:
        """Return the given frames (ascending row numbers, or a slice): [rows, ...] in the stored dtype.

        Raises:
            CorruptArtifactError: a frame does not match its checksum, or does not exist.
        """
        try:
            if isinstance(rows, slice) and (rows.stop or 0) > len(self._data):
                raise IndexError(f"row {rows.stop - 1} of {len(self._data)}")  # a slice would omit it silently
            selected = np.arange(len(self._data))[rows] if isinstance(rows, slice) else np.array(rows, int)
            if len(selected) and not 0 <= min(selected) <= max(selected) < len(self._data):
                raise IndexError(f"rows {selected.tolist()} of {len(self._data)}")
            frames = np.empty((len(selected), *self._data.shape[1:]), self._data.dtype)
            # Read runs of contiguous rows: HDF5 takes 300 times longer for a list of rows (105 ms instead of 0.3 for 4 of 32
            # ViT-g frames). Each call releases the GIL, and waits for it if another thread is busy.
            for places in np.split(np.arange(len(selected)), np.flatnonzero(np.diff(selected) != 1) + 1):
                if len(places):
                    first, last = selected[places[0]], selected[places[-1]]
                    self._data.read_direct(frames, np.s_[first : last + 1], np.s_[places[0] : places[-1] + 1])
            checksums = self._checksum[:][selected]
        except (KeyError, OSError, ValueError, IndexError) as error:
            raise CorruptArtifactError(f"{self._path}: cannot be read: {error}; {repair_hint(self._path)}") from error
        for row, frame, checksum in zip(selected, frames, checksums, strict=True):
            if _checksum(frame) != checksum:
                problem = "bytes do not match their checksum"
                raise CorruptArtifactError(f"{self._path}: row {row}: {problem}; {repair_hint(self._path)}")
        return frames

    def owner(self) -> Owner:
        """Return the owner of the frames; raises `CorruptArtifactError` if the file does not hold it in a readable form."""
        indices = array(self._file, "frame_indices", ("int64",))
        if indices.shape != self._data.shape[:1]:
            raise CorruptArtifactError(
                f"{self._path}: frame_indices of shape {indices.shape}; {repair_hint(self._path)}"
            )
        self._indices = indices[:]
        return Owner(short_text(self._file, "space"), short_text(self._file, "key"), self._indices.tolist())

    def check(self, rows: np.ndarray, frame_indices: np.ndarray) -> None:
        """Raise `CorruptArtifactError` if `rows` hold frames other than `frame_indices`, as far as `owner` has read them."""
        if self._indices is not None and max(rows, default=0) < len(self._indices):
            stored = self._indices[rows]
            if not np.array_equal(stored, frame_indices):
                message = f"rows {rows.tolist()} are frames {stored.tolist()}, expected {list(frame_indices)}"
                raise CorruptArtifactError(f"{self._path}: {message}; {repair_hint(self._path)}")

    def digest(self) -> str:
        """Return the digest of the array's dtype, frame shape and checksums."""
        return _digest(self._data.dtype.name, self._data.shape[1:], self._checksum[:])

    @property
    def checksums(self) -> np.ndarray:
        """The stored checksums of the frames: uint64 [frames]."""
        return np.asarray(self._checksum[:])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _digest(dtype: str, frame_shape: Sequence[int], checksums: np.ndarray) -> str:
    return fingerprint([dtype, list(frame_shape), checksums.tolist()])


def _check_space(folder: Path, size_bytes: int) -> None:
    # HDF5 crashes the process if it cannot flush its buffers on closing, so stop before the disk is full.
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < size_bytes + SPARE_BYTES:
        raise OSError(
            errno.ENOSPC, f"{free_bytes} bytes free, {size_bytes + SPARE_BYTES} needed for the next frames", str(folder)
        )


def _checksum(frame: np.ndarray) -> int:
    return int(xxhash.xxh3_64_intdigest(np.ascontiguousarray(frame).data))
