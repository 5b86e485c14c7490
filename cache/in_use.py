"""Locks on a whole store: any number of runs, or one housekeeping process. The system frees the lock of a dead process."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cache.errors import StoreError
from cache.files import refuse_link

log = logging.getLogger("sevila")

OWN_NAMES = {
    "artifacts",
    "partial",
    "pool",
    "aside",
    "locks",
    "names",
    "recent",
    "demo",
    "reports",
    "digests.json",
    "pulled.json",
}  # in a store's root


@contextmanager
def in_use(root: Path) -> Iterator[None]:
    """Exclude `alone` while the block makes or reads artifacts; raises `StoreError` if the root is no store."""
    _refuse_foreign(root)
    with _lock(root, fcntl.LOCK_SH):
        yield


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Run a block with exclusive use of the store; raises `StoreError` if it is in use, or the root is no store."""
    _refuse_foreign(root)
    try:
        with _lock(root, fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield
    except BlockingIOError as error:
        raise StoreError(f"{root} is in use by a run; try again when it has finished") from error


def _refuse_foreign(root: Path) -> None:
    names = {name for name in os.listdir(root) if not name.startswith(".")} if root.is_dir() else set()
    if names - {"lost+found"} and not names & OWN_NAMES:
        first_names = ", ".join(sorted(names)[:3])
        raise StoreError(f"{root} is not a store: it holds {first_names}; give a new or empty folder")


@contextmanager
def _lock(root: Path, kind: int) -> Iterator[None]:
    path = root / "locks" / "in_use.lock"
    refuse_link(path, root)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")  # NFS grants a shared lock only on a file that is open for reading
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise StoreError(
            f"{root} cannot be written: {error.strerror}; to read from it, add a writable store: "
            f"`--store FOLDER --below {root}`"
        ) from error
    with file:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if kind & fcntl.LOCK_NB:
                raise
            log.info("%s: waiting for `sevila cache gc --delete`, which has exclusive use of the store", root)
            fcntl.flock(file, kind)
        yield
