"""Writing files so that a reader, or a run after a kill, sees all of a file or none of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cache.errors import SevilaError, StoreError

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
            create(part)
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
            create(probe)
            with probe.open("wb") as file:
                file.write(bytes(PROBE_BYTES))
                os.fsync(file.fileno())
        except OSError as cause:
            raise OSError(cause.errno, cause.strerror, str(path.parent)) from error
        finally:
            with suppress(OSError):
                probe.unlink(missing_ok=True)
        raise


def create(path: Path) -> None:
    """Make an empty file of ours to write to: what lay there, perhaps a link to elsewhere, is removed and never written to."""
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o666))


def links_below(folder: Path) -> Iterator[Path]:
    """Yield the links in a folder, at any depth; none is followed. Nothing where there is no folder."""
    for place, folders, files in os.walk(folder):
        yield from (path for name in (*folders, *files) if (path := Path(place, name)).is_symlink())


def refuse_links(folder: Path) -> None:
    """Raise `StoreError` if a folder of a store is a link, or any file or folder in it: it may lead anywhere."""
    refuse_link(folder)
    for path in links_below(folder):
        refuse_link(path)


def refuse_link(path: Path, root: Path | None = None) -> None:
    """Raise `StoreError` if a path of a store, or a folder on the way to it from the store's root, is a link."""
    ways = [path] if root is None else [path, *list(path.parents)[: len(path.relative_to(root).parts) - 1]]
    for way in ways:
        if way.is_symlink():
            raise StoreError(
                f"{way}: is a link to {os.readlink(way)}, which may lie anywhere; wanted the thing itself: move it here, or "
                "delete the link. Only the root of a store may be one"
            )


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
