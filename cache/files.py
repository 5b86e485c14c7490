"""Writing files so that a reader, or a run after a kill, sees all of a file or none of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def published(path: Path) -> Iterator[Path]:
    """Yield `path` with `.part` appended to write to; on success it is synced to disk and renamed to `path`.

    The part's name holds the process id, so that two writers never share one. On an error the part is removed and `path`
    is untouched.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        sync(part)
        os.replace(part, path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


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
