"""Memory in which a decoder process hands over frames, copied once: a few chunks, whose places serve again once they are read."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

CHUNK_FRAMES = 64  # handed over at once: 9.6 MB at 224 x 224
N_CHUNKS = 3  # one that is read, one that waits to be, one that is written


@dataclass(frozen=True)
class Chunk:
    """Frames that have come: their place in the memory, and how many they are."""

    place: int
    n_frames: int


@dataclass(frozen=True)
class ChunkRead:
    """The oldest chunk has been read, and its place may be written to again."""


def chunk_file(size: int) -> BinaryIO:
    """Return a file without a name that has room for the chunks, in memory where the system has such files; raises OSError."""
    if hasattr(os, "memfd_create"):
        file: BinaryIO = os.fdopen(os.memfd_create("sevila-frames"), "w+b", buffering=0)
    else:
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
    try:
        os.ftruncate(file.fileno(), N_CHUNKS * CHUNK_FRAMES * size * size * 3)
    except OSError:
        file.close()
        raise
    return file


class ChunkMemory:
    """The chunks of frames of `size` x `size` pixels in a `chunk_file`, by its descriptor, which may be closed then."""

    def __init__(self, descriptor: int, size: int) -> None:
        """Raises OSError if there is not enough memory."""
        shape = (N_CHUNKS, CHUNK_FRAMES, size, size, 3)
        self._frames = np.frombuffer(mmap.mmap(descriptor, 0), np.uint8).reshape(shape)
        self._n_written = self._n_released = 0

    def read(self, chunk: Chunk) -> np.ndarray:
        """Return a chunk's frames, uint8 [n, size, size, 3], where they lie: until it is released."""
        frames: np.ndarray = self._frames[chunk.place, : chunk.n_frames]
        return frames

    def write(self, frames: np.ndarray, wait_for_release: Callable[[], None]) -> Chunk:
        """Copy frames [n <= 64, size, size, 3] to the next place, once it is free, and return where they are."""
        while self._n_written - self._n_released >= N_CHUNKS:
            wait_for_release()
        chunk = Chunk(self._n_written % N_CHUNKS, len(frames))
        self._frames[chunk.place, : chunk.n_frames] = frames
        self._n_written += 1
        return chunk

    def release(self) -> None:
        """Note that the oldest chunk has been read."""
        self._n_released += 1
