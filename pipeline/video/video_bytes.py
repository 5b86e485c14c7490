"""Whether a video's bytes can be read, and are those it was identified by: is the file bad, or the machine in trouble?"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av

from cache.digests import folder_digest, stamp
from cache.errors import ReadingError

CHUNK_BYTES = 1 << 22
SPARE_BYTES = 1 << 28  # if so much memory can be had, a file that asks for more than there is asks for too much
# A file leads to a place that cannot be: before its begin, beyond all ends, in another file.
OF_THE_BYTES = (errno.EINVAL, errno.EOVERFLOW, None)


class VideoBytes:
    """The bytes of one video while it is decoded: a file, or the images of a folder.

    `digest` and `stamp` are those of its identification; without them, any bytes are right that stay the same.
    """

    def __init__(self, path: Path, digest: str | None, stamp: tuple[int, ...], on_progress: Callable[[], None]) -> None:
        self._path = path
        self._digest = digest
        self._stamp = stamp
        self._on_progress = on_progress

    @contextmanager
    def checked_path(self, check_first: bool) -> Iterator[Path]:
        """Yield a path of what was opened, whatever the name stands for meanwhile.

        Bytes of another time or place are read to see whether they are others: `chmod` changes none.

        Raises:
            ReadingError: they cannot be opened, are not the identified ones, or were written to before the block's end.
        """
        with _as_trouble(), _pinned(self._path) as self._path:
            before = stamp(self._path)
            if check_first or before != self._stamp:
                self._check()
            yield self._path
            if stamp(self._path) != before:
                raise ReadingError("it was written to while it was read")

    def blame(self, error: Exception) -> None:
        """Return if the bytes are to blame for an error; raises ReadingError if the machine is.

        What the system has said to Python counts. FFmpeg's own numbers do not say: it gives "Input/output error" for a file that
        is cut short, and "Invalid data" where a disk failed. So all bytes are read again.
        """
        cause: BaseException | None = error
        while cause is not None:
            is_of_python = isinstance(cause, OSError | MemoryError) and not isinstance(cause, av.FFmpegError)
            if is_of_python and getattr(cause, "errno", errno.ENOMEM) not in OF_THE_BYTES:
                raise ReadingError(_reason(cause)) from None
            cause = cause.__context__
        with _as_trouble():
            self._check()
            _check_resources()

    def _check(self) -> None:
        """Read all; raises OSError where that fails, ReadingError for other bytes than the identified ones."""
        digest = folder_digest(self._path, self._file_digest) if self._path.is_dir() else self._file_digest(self._path)
        if self._digest is not None and digest != self._digest:
            raise ReadingError("its bytes are not those that were identified: run again to identify it again")

    def _file_digest(self, path: Path) -> str:
        content = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                content.update(chunk)
                self._on_progress()
        return content.hexdigest()


def _check_resources() -> None:
    """Raise MemoryError or ReadingError if this process can have neither memory nor a thread: decoders say so in many words."""
    bytearray(SPARE_BYTES)
    try:
        threading.Thread(target=lambda: None).start()
    except RuntimeError as error:
        raise ReadingError(f"its decoder is short of threads: {error}") from None


@contextmanager
def _pinned(path: Path) -> Iterator[Path]:
    """Yield a path that stands for the open file or folder itself, where the system has such paths."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # the latter for pipes, which would wait for a writer
    try:
        pinned = Path(f"/proc/self/fd/{descriptor}")
        yield pinned if pinned.exists() else path
    finally:
        os.close(descriptor)


@contextmanager
def _as_trouble() -> Iterator[None]:
    try:
        yield
    except (OSError, MemoryError) as error:
        raise ReadingError(_reason(error)) from None


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "its decoder has too little memory"
    return f"it cannot be read: {getattr(error, 'strerror', None) or error}"
