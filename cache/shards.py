"""HDF5 shards: immutable files of per-video arrays, one chunk and one checksum a frame.

A shard holds, for each video, a dataset `data/NNNNNN` of shape [frames, ...] and `checksum/NNNNNN` of shape [frames] with the
xxh3-64 of each frame's bytes, so that reading four frames of a video checks those four. Videos are numbered in the order of
writing: ids of videos may hold any character and stay in the index tables.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import xxhash

from cache.errors import CorruptArtifactError
from cache.files import published

SPARE_BYTES = 1 << 20  # for what HDF5 writes beside the frames: its caches and tables


class ShardWriter:
    """Appends frames of one video after the other; get one from `new_shard`."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self._folder = Path(file.filename).parent
        self._count = 0

    def add(self, n_frames: int, frame_shape: tuple[int, ...], dtype: str, chunks: Iterator[np.ndarray]) -> int:
        """Write one video from an iterator of [<=n, *frame_shape] pieces and return its number in this shard.

        If `chunks` raises, nothing of the video stays in the shard's index and the error goes on to the caller.

        Raises:
            ValueError: the pieces hold another number of frames than `n_frames`, or another shape.
        """
        name = f"{self._count:06d}"
        data = self._file.create_dataset(f"data/{name}", (n_frames, *frame_shape), dtype, chunks=(1, *frame_shape))
        checksums = np.zeros(n_frames, "uint64")
        done = 0
        try:
            for chunk in chunks:
                frames = np.ascontiguousarray(chunk, dtype=dtype)
                if frames.shape[1:] != frame_shape or done + len(frames) > n_frames:
                    raise ValueError(
                        f"got frames of shape {frames.shape} after {done}, wanted {n_frames} of {frame_shape}"
                    )
                _check_space(self._folder, frames.nbytes)
                data[done : done + len(frames)] = frames
                checksums[done : done + len(frames)] = [_checksum(frame) for frame in frames]
                done += len(frames)
            if done != n_frames:
                raise ValueError(f"got {done} frames, wanted {n_frames}")
        except BaseException:
            del self._file[f"data/{name}"]
            raise
        self._file.create_dataset(f"checksum/{name}", data=checksums)
        self._count += 1
        return self._count - 1


@contextmanager
def new_shard(path: Path) -> Iterator[ShardWriter]:
    """Open a new shard for writing; it appears under `path`, complete and synced, when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with published(path) as part, h5py.File(part, "w") as file:
        yield ShardWriter(file)


class ShardReader:
    """Reads frames of one shard and checks every one it reads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise CorruptArtifactError(
                f"{path}: not readable as HDF5: {error}; rebuild it with `sevila stage STAGE RECIPE --again`"
            ) from error

    def read(self, number: int, rows: Sequence[int] | slice) -> np.ndarray:
        """Return the given frames (ascending row numbers, or a slice) of video `number`: [rows, ...] in the stored dtype.

        Raises:
            CorruptArtifactError: a frame does not match its checksum, or the video is not in the shard.
        """
        try:
            selected = rows if isinstance(rows, slice) else list(rows)
            frames = self._file[f"data/{number:06d}"][selected]
            wanted = self._file[f"checksum/{number:06d}"][selected]
        except (KeyError, OSError, ValueError, IndexError) as error:
            raise CorruptArtifactError(f"{self._path}: video {number} cannot be read: {error}") from error
        for row, (frame, checksum) in enumerate(zip(frames, wanted, strict=True)):
            if _checksum(frame) != checksum:
                raise CorruptArtifactError(
                    f"{self._path}: video {number}, row {row} of {selected}: bytes do not match their checksum; "
                    "rebuild it with `sevila stage STAGE RECIPE --again`"
                )
        return np.asarray(frames)


def _check_space(folder: Path, size_bytes: int) -> None:
    # HDF5 crashes the process when it cannot write what it still holds while closing; so it never gets to a full disk.
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < size_bytes + SPARE_BYTES:
        raise OSError(
            errno.ENOSPC, f"{free_bytes} bytes free, {size_bytes + SPARE_BYTES} needed for the next frames", str(folder)
        )


def _checksum(frame: np.ndarray) -> int:
    return int(xxhash.xxh3_64_intdigest(np.ascontiguousarray(frame).data))


class SeriesReader:
    """Reads a series of shards by video id, keeping the shards it has met open."""

    def __init__(self, files: Sequence[Path], places: Mapping[str, tuple[int, int]]) -> None:
        """`files` are named NNNNN.h5 by shard; `places` gives each video's (shard, number in the shard)."""
        self._files = {int(path.stem): path for path in files}
        self._places = places
        self._open: dict[int, ShardReader] = {}

    def read(self, video_id: str, rows: Sequence[int] | slice) -> np.ndarray:
        """Return the given frames of one video; see `ShardReader.read`."""
        shard, number = self._places[video_id]
        if shard not in self._open:
            self._open[shard] = ShardReader(self._files[shard])
        return self._open[shard].read(number, rows)
