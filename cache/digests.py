"""A memory of files outside the store: their SHA-256, and the identities of named sources."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from cache.errors import CorruptArtifactError, MissingSourceError
from cache.files import open_file, refuse_link
from cache.fingerprint import canonical, file_digest, fingerprint
from cache.notes import read_note, write_note

log = logging.getLogger("sevila")

Item = TypeVar("Item")

SAVE_EVERY_SECONDS = 30.0
LOCK_SECONDS = 10.0  # longer nobody waits only to be remembered


def stamp(path: Path) -> tuple[int, ...]:
    """Return what changes when a file's content does: size, mtime, ctime, inode; of a folder, a number made of its files'."""
    if path.is_dir():
        return _folder_stamp({name: stamp(path / name) for name in _files(path)})
    return _stamp(os.stat(path))


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _folder_stamp(stamps: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    content = [[_text(name), *stamps[name]] for name in stamps]
    return len(content), int(fingerprint(content)[:15], 16)


def _files(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_file())


class DigestCache:
    """SHA-256 of files and folders of files, remembered by (size, mtime, ctime, inode) so that only changed ones are read again.

    Also remembers the last identity of each named source. One small JSON file with a checksum; losing it costs time, never
    correctness. What others have saved meanwhile is kept when it is saved.
    """

    def __init__(self, path: Path, below: Iterable[Path] = ()) -> None:
        """`below` are the files of other stores, nearest first: what they remember is used and not written."""
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
        """Return the digest of a file or folder, and the stamp of the very bytes that it is of.

        Raises:
            MissingSourceError: it does not exist, cannot be read, is a pipe or a device, or was written to meanwhile.
        """
        try:
            stamped = stamp(path)
            known = self._known["files"].get(_text(path.absolute()))
            if known is not None and known[0] == list(stamped):
                return str(known[1]), stamped
            digest, stamped = _identify_folder(path) if path.is_dir() else _identify_file(path)
        except (OSError, ValueError) as error:  # the latter of a name that no disk can have
            raise MissingSourceError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
        self._learn("files", _text(path.absolute()), [list(stamped), digest])
        return digest, stamped

    def saving(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, saving now and then what was learned meanwhile, so that a kill costs little; and at the end."""
        for item in items:
            yield item
            if time.monotonic() - self._saved_at > SAVE_EVERY_SECONDS:
                self.save()
        self.save()

    def remember(self, source: str, id: str) -> None:
        """Keep the identity of a named source."""
        if self._known["sources"].get(source) != id:
            self._learn("sources", source, id)
            self.save()

    def remembered(self, source: str) -> str | None:
        """Return the identity that a named source had last."""
        return self._known["sources"].get(source)

    def remembered_sources(self) -> dict[str, str]:
        """Return every named source that something was made from, with the identity it had last."""
        return dict(self._known["sources"])

    def remembered_below(self, source: str) -> str | None:
        """Return the same as a store below remembers it."""
        return self._below["sources"].get(source)

    def save(self) -> None:
        """Write what was learned; a store that cannot be written is no reason to fail here, a link in it is (`StoreError`)."""
        self._saved_at = time.monotonic()
        if not any(self._changed.values()):
            return
        from filelock import FileLock  # here, as commands that only look need none

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
    """Return what a file holds; what is damaged is warned of and forgotten."""
    nothing: dict[str, dict[str, Any]] = {"files": {}, "sources": {}}
    try:
        content = read_note(path)
        parts = {part: content.get(part, {}) for part in nothing}  # `pulled.json` has more, see cache/pulled.py
        if all(isinstance(part, dict) for part in parts.values()):
            return parts
        problem = f"{path}: not what was written there"
    except CorruptArtifactError as error:
        problem = str(error)
    except OSError:
        return nothing
    log.warning("%s; files outside the store will be read again to identify them", problem)
    return nothing


def _identify_file(path: Path) -> tuple[str, tuple[int, ...]]:
    """Return digest and stamp of one open file: what its name stands for may be another file by now."""
    with open_file(path) as stream:
        before = _stamp(os.fstat(stream.fileno()))
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if _stamp(os.fstat(stream.fileno())) != before:
            raise MissingSourceError(f"{path} was written to while it was read; run again when it is complete")
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
    """Return a path as text that UTF-8 can hold: disks of old hold names in other encodings."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
