"""A cache of facts about files outside the store: their SHA-256, and the identities of named sources."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from cache.errors import CorruptArtifactError, MissingSourceError
from cache.files import open_file, refuse_link
from cache.fingerprint import canonical, file_digest, fingerprint
from cache.notes import read_note, write_note

log = logging.getLogger("sevila")

Item = TypeVar("Item")

SAVE_EVERY_SECONDS = 30.0
LOCK_SECONDS = 10.0  # the cache is not worth a longer wait


def stamp(path: Path) -> tuple[int, ...]:
    """Return numbers that change with a file's content: size, mtime, ctime, inode; of a folder, a digest of its files'."""
    if path.is_dir():
        with os.scandir(path) as entries:  # a folder of images has many files: one system call for each
            files = sorted(filter(_is_file, entries), key=attrgetter("name"))
            return _folder_stamp({file.name: _stamp(file.stat()) for file in files})
    return _stamp(os.stat(path))


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _folder_stamp(stamps: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    content = [[_text(name), *stamps[name]] for name in stamps]
    return len(content), int(fingerprint(content)[:15], 16)


def _is_file(entry: os.DirEntry[str]) -> bool:
    return Path(entry).is_file() if entry.is_symlink() else entry.is_file()  # Path's is False for a link to itself


def _files(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_file())


class DigestCache:
    """SHA-256 of files and folders of files, cached by (size, mtime, ctime, inode), so that only changed ones are read again.

    It also keeps the last identity of each named source. The cache is one small JSON file with a checksum; losing it costs
    time, never correctness. `save` keeps entries that other processes have saved meanwhile.
    """

    def __init__(self, path: Path, below: Iterable[Path] = ()) -> None:
        """Read the cache; `below` are the cache files of other stores, nearest first, which are used but not written."""
        self._path = path
        self._changed: dict[str, dict[str, Any]] = {"files": {}, "sources": {}}
        self._saved_at = time.monotonic()
        self._below: dict[str, dict[str, Any]] = {part: {} for part in self._changed}
        for other in reversed(list(below)):
            self._below = _merged(self._below, _read(other))
        self._known = _merged(self._below, _read(path))

    def digest(self, path: Path) -> str:
        """Return the SHA-256 of a file, or of a folder's sorted (name, SHA-256) pairs; raises like `identify`."""
        return self.identify(path)[0]

    def identify(self, path: Path) -> tuple[str, tuple[int, ...]]:
        """Return the digest of a file or folder, and the stamp of exactly the bytes that were digested.

        Raises:
            MissingSourceError: it does not exist, cannot be read, is a pipe or a device, or changed while it was read.
        """
        try:
            stamped = stamp(path)
            known = self._known["files"].get(_text(path.absolute()))
            if known is not None and known[0] == list(stamped):
                return str(known[1]), stamped
            digest, stamped = _identify_folder(path) if path.is_dir() else _identify_file(path)
        except (OSError, ValueError) as error:  # ValueError: an impossible file name
            raise MissingSourceError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
        self._learn("files", _text(path.absolute()), [list(stamped), digest])
        return digest, stamped

    def saving(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, and save every `SAVE_EVERY_SECONDS`, so that a kill costs little, and at the end."""
        for item in items:
            yield item
            if time.monotonic() - self._saved_at > SAVE_EVERY_SECONDS:
                self.save()
        self.save()

    def remember(self, source: str, id: str) -> None:
        """Save the identity of a named source."""
        if self._known["sources"].get(source) != id:
            self._learn("sources", source, id)
            self.save()

    def remembered(self, source: str) -> str | None:
        """Return the last identity of a named source."""
        return self._known["sources"].get(source)

    def remembered_sources(self) -> dict[str, str]:
        """Return the last identity of every named source that an artifact was made from."""
        return dict(self._known["sources"])

    def remembered_below(self, source: str) -> str | None:
        """Return the last identity of a named source in the stores below."""
        return self._below["sources"].get(source)

    def save(self) -> None:
        """Write new entries; an `OSError` is ignored, but a link in the store raises `LinkError`."""
        self._saved_at = time.monotonic()
        if not any(self._changed.values()):
            return
        from filelock import FileLock  # here, as read-only commands need no locks

        with suppress(OSError):
            lock = self._path.parent / "locks" / "digests.lock"
            refuse_link(lock, self._path.parent)
            lock.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(lock, timeout=LOCK_SECONDS):
                own = _merged(_read(self._path), self._changed)
                write_note(self._path, own)
            self._known = _merged(self._below, own)
            self._changed = {part: {} for part in self._changed}

    def _learn(self, part: str, key: str, value: Any) -> None:
        self._known[part][key] = self._changed[part][key] = value


def _merged(first: dict[str, dict[str, Any]], over: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {part: {**first[part], **over[part]} for part in first}


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of a cache file; none, with a warning, if it is damaged."""
    empty: dict[str, dict[str, Any]] = {"files": {}, "sources": {}}
    try:
        content = read_note(path)
        parts = {part: content.get(part, {}) for part in empty}  # `pulled.json` has more, see cache/pulled.py
        if all(isinstance(part, dict) for part in parts.values()):
            return parts
        problem = f"{path}: is no cache of digests"
    except CorruptArtifactError as error:
        problem = str(error)
    except OSError:
        return empty
    log.warning("%s; files outside the store will be read again to identify them", problem)
    return empty


def _identify_file(path: Path) -> tuple[str, tuple[int, ...]]:
    """Return digest and stamp of a file, both from one open descriptor, as its name may come to refer to another file."""
    with open_file(path) as stream:
        before = _stamp(os.fstat(stream.fileno()))
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if _stamp(os.fstat(stream.fileno())) != before:
            raise MissingSourceError(f"{path} changed while it was read; run again when it is complete")
    return digest, before


def folder_digest(folder: Path, digest: Callable[[Path], str] = file_digest) -> str:
    """Return the SHA-256 of a folder's sorted (name, SHA-256) pairs; `digest` reads one file."""
    content = [[_text(name), digest(folder / name)] for name in _files(folder)]
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def _identify_folder(folder: Path) -> tuple[str, tuple[int, ...]]:
    stamps: dict[str, tuple[int, ...]] = {}

    def read(file: Path) -> str:
        digest, stamps[file.name] = _identify_file(file)
        return digest

    return folder_digest(folder, read), _folder_stamp(stamps)


def _text(path: str | Path) -> str:
    """Return a path as text that UTF-8 can encode: old disks hold names in other encodings."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
