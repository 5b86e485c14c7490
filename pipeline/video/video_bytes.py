"""Checks that a video's bytes can be read and match its digest, to separate damaged files from failures of the machine."""

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
SPARE_BYTES = 1 << 28  # if this can be allocated, a decoder's failed allocation is the file's fault
# Errors of seeking to an offset that the file's content gives: negative, or too large.
ERRNOS_OF_BYTES = (errno.EINVAL, errno.EOVERFLOW, None)


class VideoBytes:
    """The bytes of one video while it is decoded: a file, or the images of a folder.

    `digest` and `stamp` come from its identification; without them, any bytes are accepted that do not change meanwhile.
    """

    def __init__(self, path: Path, digest: str | None, stamp: tuple[int, ...], on_progress: Callable[[], None]) -> None:
        self._path = path
        self._digest = digest
        self._stamp = stamp
        self._on_progress = on_progress

    @contextmanager
    def checked_path(self, check_first: bool) -> Iterator[Path]:
        """Yield a path to the open file, which stays valid if the name is replaced meanwhile.

        If the stamp has changed, the content is compared with the digest: `chmod` changes the stamp only.

        Raises:
            ReadingError: the bytes cannot be read, are not the identified ones, or were written to before the block's end.
        """
        with _reading_errors(), _pinned(self._path) as self._path:
            before = stamp(self._path)
            if check_first or before != self._stamp:
                self._check()
            yield self._path
            if stamp(self._path) != before:
                raise ReadingError("it was written to while it was read")

    def blame(self, error: Exception) -> None:
        """Return if the bytes caused an error; raise ReadingError if the machine did.

        Python's system errors are conclusive. FFmpeg's codes are not: it gives "Input/output error" for a truncated file, and
        "Invalid data" where a disk failed. So all bytes are read again.
        """
        cause: BaseException | None = error
        while cause is not None:
            is_of_python = isinstance(cause, OSError | MemoryError) and not isinstance(cause, av.FFmpegError)
            if is_of_python and getattr(cause, "errno", errno.ENOMEM) not in ERRNOS_OF_BYTES:
                raise ReadingError(_reason(cause)) from None
            cause = cause.__context__
        with _reading_errors():
            self._check()
            _check_resources()

    def _check(self) -> None:
        """Read all bytes; raise OSError if that fails, ReadingError if they do not match the digest."""
        digest = folder_digest(self._path, self._file_digest) if self._path.is_dir() else self._file_digest(self._path)
        if self._digest is not None and digest != self._digest:
            raise ReadingError("its content has changed since it was identified; run again to identify it again")

    def _file_digest(self, path: Path) -> str:
        content = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                content.update(chunk)
                self._on_progress()
        return content.hexdigest()


def _check_resources() -> None:
    """Raise MemoryError or ReadingError if this process cannot allocate memory or start a thread."""
    bytearray(SPARE_BYTES)
    try:
        threading.Thread(target=lambda: None).start()
    except RuntimeError as error:
        raise ReadingError(f"its decoder is short of threads: {error}") from None


@contextmanager
def _pinned(path: Path) -> Iterator[Path]:
    """Yield a path of the open descriptor, or `path` itself on systems without /proc."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # non-blocking: a pipe would wait for a writer
    try:
        pinned = Path(f"/proc/self/fd/{descriptor}")
        yield pinned if pinned.exists() else path
    finally:
        os.close(descriptor)


@contextmanager
def _reading_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, MemoryError) as error:
        raise ReadingError(_reason(error)) from None


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "its decoder has too little memory"
    return f"it cannot be read: {getattr(error, 'strerror', None) or error}"
