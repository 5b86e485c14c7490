"""Stable identities of values and bytes: the same meaning gives the same hexadecimal string on every machine."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from cache.errors import FingerprintError, MissingSourceError, SevilaError
from cache.files import write_atomically

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


class DigestCache:
    """SHA-256 of files and folders of files, remembered by (size, mtime, inode) so that only changed files are read again.

    One small JSON file; losing it costs time, never correctness. Writers replace it as a whole, so concurrent runs can at
    worst forget each other's entries.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, list[Any]] = {}
        self._changed = False
        try:
            self._known = json.loads(path.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            self._known = {}

    def digest(self, path: Path) -> str:
        """Return the SHA-256 of a file, or of a folder's sorted (name, SHA-256) pairs.

        Raises:
            MissingSourceError: the path does not exist or cannot be read.
        """
        try:
            if path.is_dir():
                names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
                return hashlib.sha256(
                    canonical([[name, self._file(path / name)] for name in names]).encode()
                ).hexdigest()
            return self._file(path)
        except OSError as error:
            raise MissingSourceError(f"{path} cannot be read: {error.strerror or error}") from error

    def _file(self, path: Path) -> str:
        status = os.stat(path)
        stamp = [status.st_size, status.st_mtime_ns, status.st_ino]
        key = str(path.absolute())
        known = self._known.get(key)
        if known is not None and known[:3] == stamp:
            return str(known[3])
        digest = file_digest(path)
        self._known[key] = [*stamp, digest]
        self._changed = True
        return digest

    def save(self) -> None:
        """Write what was learned; a store that cannot be written is no reason to fail here."""
        if not self._changed:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, json.dumps(self._known).encode())
            self._changed = False
        except (OSError, SevilaError):
            pass
