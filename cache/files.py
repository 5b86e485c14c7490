"""Writing files so that a reader, or a run after a kill, sees all of a file or none of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cache.errors import SevilaError

PROBE_BYTES = 1 << 16


@contextmanager
def published(path: Path) -> Iterator[Path]:
    """Yield `path` with `.part` appended to write to; on success it is synced to disk and renamed to `path`.

    The part's name holds the process id, so that two writers never share one. On an error the part is removed and `path`
    is untouched.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with disk_errors(path):
            yield part
        sync(part)
        os.replace(part, path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Give errors of the disk their name and kind: libraries tell of a full one in their own ways, or not at all.

    Raises:
        OSError: whatever the block raises while nothing can be written beside `path`.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise
    except SevilaError:
        raise
    except Exception as error:
        told = re.search(r"\(os error (\d+)\)", str(error))
        if told:
            raise OSError(int(told[1]), os.strerror(int(told[1])), str(path)) from error
        probe = path.with_name(f"{path.name}.{os.getpid()}.probe")
        try:
            with probe.open("wb") as file:
                file.write(bytes(PROBE_BYTES))
                os.fsync(file.fileno())
        except OSError as cause:
            raise OSError(cause.errno, cause.strerror, str(path.parent)) from error
        finally:
            with suppress(OSError):
                probe.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file in one piece."""
    with published(path) as part:
        part.write_bytes(content)


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
