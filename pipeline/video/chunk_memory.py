"""Shared memory through which a decoder process passes frames with one copy: a ring of a few chunks."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

CHUNK_FRAMES = 64  # 9.6 MB at 224 x 224
N_CHUNKS = 3  # one being read, one waiting, one being written


@dataclass(frozen=True)
class Chunk:
    """Message with the slot of a written chunk and its number of frames."""

    slot: int
    n_frames: int


@dataclass(frozen=True)
class ChunkRead:
    """Message that the oldest chunk has been read; its slot may be overwritten."""


def chunk_file(size: int) -> BinaryIO:
    """Return an anonymous file with the size of the ring, in memory where the system supports it; raise OSError on failure."""
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
    """A ring of chunks of frames, `size` x `size` pixels each, mapped from a `chunk_file`; its descriptor may then be closed."""

    def __init__(self, descriptor: int, size: int) -> None:
        """Map the file; raise OSError if there is not enough memory."""
        shape = (N_CHUNKS, CHUNK_FRAMES, size, size, 3)
        self._frames = np.frombuffer(mmap.mmap(descriptor, 0), np.uint8).reshape(shape)
        self._n_written = self._n_released = 0

    def read(self, chunk: Chunk) -> np.ndarray:
        """Return a view of a chunk's frames, uint8 [n, size, size, 3], valid until the chunk is released."""
        frames: np.ndarray = self._frames[chunk.slot, : chunk.n_frames]
        return frames

    def write(self, frames: Sequence[np.ndarray], wait_for_release: Callable[[], None]) -> Chunk:
        """Copy at most 64 frames, each [size, size, 3], into the next slot, once it is free, and return its message."""
        while self._n_written - self._n_released >= N_CHUNKS:
            wait_for_release()
        chunk = Chunk(self._n_written % N_CHUNKS, len(frames))
        for place, frame in zip(self.read(chunk), frames, strict=True):
            place[:] = frame
        self._n_written += 1
        return chunk

    def release(self) -> None:
        """Free the slot of the oldest chunk."""
        self._n_released += 1
