"""Atomic writes: a reader, or a run after a kill, sees a complete file or none."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from cache.errors import LinkError, SevilaError

PROBE_BYTES = 1 << 16
# Errors of file systems that cannot sync a folder (CIFS, FUSE, some NFS); for a file, they are errors.
NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
KINDS_OF_FILES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link, which may lead anywhere",
}
NOT_A_FILE = errno.EINVAL


def kind_of(path: Path) -> str:
    """Return what is at a path instead of a file: "a folder", "a pipe", ...; "" for a file or an unreadable path."""
    try:
        return KINDS_OF_FILES.get(stat.S_IFMT(os.stat(path).st_mode), "")
    except (OSError, ValueError):
        return ""


def open_file(path: Path) -> BufferedReader:
    """Open a regular file for reading, without blocking on a pipe or a device.

    Raises:
        OSError: it cannot be opened, or is not a regular file (`NOT_A_FILE`).
    """
    _refuse_others(path, os.stat(path))  # first, as opening a device may have side effects
    stream = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")  # noqa: SIM115 - the caller closes it
    try:
        _refuse_others(path, os.fstat(stream.fileno()))
    except OSError:
        stream.close()
        raise
    return stream


def read_whole(path: Path | str, limit_bytes: int) -> bytes:
    """Return all bytes of a small regular file; raises like `open_file`, and for a link or a file beyond the limit."""
    _refuse_others(path, os.lstat(path))
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        status = os.fstat(descriptor)
        _refuse_others(path, status)
        if status.st_size > limit_bytes:
            raise OSError(errno.EFBIG, f"{status.st_size} bytes, expected at most {limit_bytes}", str(path))
        content = os.read(descriptor, status.st_size)
        while len(content) < status.st_size and (more := os.read(descriptor, status.st_size - len(content))):
            content += more
        return content
    finally:
        os.close(descriptor)


def _refuse_others(path: Path | str, status: os.stat_result) -> None:
    kind = KINDS_OF_FILES.get(stat.S_IFMT(status.st_mode))
    if kind is not None:
        raise OSError(NOT_A_FILE, f"is {kind}, expected a file", str(path))


@contextmanager
def published(path: Path) -> Iterator[Path]:
    """Yield a `.part` file beside `path` to write to; on success it is synced and renamed to `path`, on an error removed."""
    with written(path) as part:
        yield part
    publish(part, path)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Do the first half of `published`: on success, `publish` must follow. The part's name holds the process id."""
    with being_written(path.with_name(f"{path.name}.{os.getpid()}.part")) as part:
        yield part


@contextmanager
def being_written(part: Path) -> Iterator[Path]:
    """Yield a new file to write to; on an error it is removed."""
    try:
        with disk_errors(part):
            create(part)
            yield part
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def is_own_part(part: Path) -> bool:
    """Return whether a part was named by this process."""
    return part.name.endswith(f".{os.getpid()}.part")


def publish(part: Path, path: Path) -> None:
    """Sync a part to disk and rename it to `path`; on an error it is removed."""
    try:
        sync(part)
        os.replace(part, path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Convert disk errors to `OSError` with a file name, as libraries report a full disk in their own ways, or not at all.

    Raises:
        OSError: instead of any error of the block if a probe file beside `path` cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            with suppress(AttributeError):  # FFmpeg's error classes do not allow it
                error.filename = str(path)
        raise
    except SevilaError:
        raise
    except Exception as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code:
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
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
    """Create an empty file to write to; an existing file or link is removed, and its target never written to."""
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o666))


def links_below(folder: Path) -> Iterator[Path]:
    """Yield the links in a folder, at any depth, without following them; none if the folder does not exist."""
    for parent, folders, files in os.walk(folder):
        yield from (path for name in (*folders, *files) if (path := Path(parent, name)).is_symlink())


def refuse_links(folder: Path) -> None:
    """Raise `LinkError` if a folder of a store, or any file or folder in it, is a link."""
    refuse_link(folder)
    for path in links_below(folder):
        refuse_link(path)


def refuse_link(path: Path, root: Path | None = None) -> None:
    """Raise `LinkError` if a path of a store, or a folder on the way to it from the store's root, is a link."""
    paths = [path] if root is None else [path, *list(path.parents)[: len(path.relative_to(root).parts) - 1]]
    for path in paths:
        if path.is_symlink():
            raise LinkError(
                f"{path}: is a link to {os.readlink(path)}; expected a file or folder: replace the link with its target, or "
                "delete it. Only the root of a store may be a link"
            )


def remove_whole(path: Path) -> None:
    """Remove a folder tree, or a file or pipe in its place, on which `rmtree` would block; links and failures are left."""
    with suppress(OSError):
        if path.is_symlink():
            return
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def write_for_user(path: Path, content: bytes) -> None:
    """Write an output file that a user named: a link's target is written, and a pipe or device is written to, not replaced."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        path.write_bytes(content)
    else:
        write_atomically(path, content)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file atomically."""
    with published(path) as part:
        part.write_bytes(content)


def sync(path: Path) -> bool:
    """Flush a file or folder to disk; return whether the file system supports it, which some do not for folders."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        return True
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC or not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise
        return False
    finally:
        os.close(descriptor)
