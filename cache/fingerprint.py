"""Stable identities of values and bytes: the same meaning gives the same hexadecimal string on every machine."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any, TypeVar

from cache.errors import FingerprintError, MissingSourceError
from cache.files import write_atomically

Item = TypeVar("Item")

SAVE_EVERY_SECONDS = 30.0
FINGERPRINT_LENGTH = 20  # 80 bits: a collision among a million artifacts has a chance of about 4e-13


def canonical(value: Any, where: str = "value") -> str:
    """Return the canonical JSON text of a value made of None, bool, int, finite float, str, list, tuple and str-keyed mappings.

    Tuples and lists are the same thing; mapping order does not matter; 1, 1.0 and True are three different things.

    Raises:
        FingerprintError: for anything else, naming where it is, what it is and what to write instead.
    """
    return json.dumps(_plain(value, where), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(value: Any) -> str:
    """Return 20 hexadecimal digits that identify `value`; see `canonical` for what is allowed in it."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:FINGERPRINT_LENGTH]


def _plain(value: Any, where: str) -> Any:
    # Exact types: a numpy scalar is a float subclass whose repr depends on the numpy version, a str Enum prints two ways.
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise FingerprintError(f"{where} is {value}, which no identity can hold; use None for 'not set'")
        return value
    if isinstance(value, Mapping):
        for key in value:
            if type(key) is not str:
                raise FingerprintError(f"{where} has the key {key!r} of type {type(key).__name__}; keys must be str")
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{position}]") for position, item in enumerate(value)]
    if isinstance(value, PurePath):
        raise FingerprintError(
            f"{where} is the path {str(value)!r}; a place on one machine is not part of an identity: "
            "name the data in the recipe and say where it lies on the command line or in sevila.toml"
        )
    raise FingerprintError(
        f"{where} is a {type(value).__module__}.{type(value).__qualname__}, which cannot be hashed stably; "
        "use None, bool, int, float, str, a list or a str-keyed dict"
    )


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def stamp(path: Path) -> tuple[int, ...]:
    """Return what changes when a file's content does: size, mtime, ctime, inode; of a folder, a number made of its files'."""
    if not path.is_dir():
        status = os.stat(path)
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
    stamps = [[entry.name, *stamp(entry)] for entry in sorted(path.iterdir()) if entry.is_file()]
    return len(stamps), int(fingerprint(stamps)[:15], 16)


class DigestCache:
    """SHA-256 of files and folders of files, remembered by (size, mtime, ctime, inode) so that only changed ones are read again.

    Also remembers the last identity of named sources. One small JSON file; losing it costs time, never correctness. Writers
    replace it as a whole, so concurrent runs can at worst forget each other's entries.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = False
        self._saved_at = time.monotonic()
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError):
            content = None
        known = content if isinstance(content, dict) and content.keys() == {"files", "sources"} else {}
        self._files: dict[str, list[Any]] = known.get("files", {})
        self._sources: dict[str, str] = known.get("sources", {})

    def digest(self, path: Path) -> str:
        """Return the SHA-256 of a file, or of a folder's sorted (name, SHA-256) pairs.

        Raises:
            MissingSourceError: the path does not exist or cannot be read.
        """
        try:
            found = list(stamp(path))
            known = self._files.get(str(path.absolute()))
            if known is not None and known[0] == found:
                return str(known[1])
            digest = _folder_digest(path) if path.is_dir() else file_digest(path)
        except OSError as error:
            raise MissingSourceError(f"{path} cannot be read: {error.strerror or error}") from error
        self._files[str(path.absolute())] = [found, digest]
        self._changed = True
        return digest

    def saving(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, saving now and then what was learned meanwhile, so that a kill costs little; and at the end."""
        for item in items:
            yield item
            if time.monotonic() - self._saved_at > SAVE_EVERY_SECONDS:
                self.save()
        self.save()

    def remember(self, source: str, id: str) -> None:
        """Keep the identity of a named source."""
        if self._sources.get(source) != id:
            self._sources[source] = id
            self._changed = True
            self.save()

    def remembered(self, source: str) -> str | None:
        """Return the identity that a named source had last."""
        return self._sources.get(source)

    def save(self) -> None:
        """Write what was learned; a store that cannot be written is no reason to fail here."""
        self._saved_at = time.monotonic()
        if self._changed:
            with suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self._path, json.dumps({"files": self._files, "sources": self._sources}).encode())
                self._changed = False


def _folder_digest(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    return hashlib.sha256(canonical([[name, file_digest(folder / name)] for name in names]).encode()).hexdigest()
