"""Stable identities of values and bytes: equal values give the same hexadecimal string on every machine."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from cache.errors import FingerprintError
from cache.files import open_file

PLAIN = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False
)  # of plain values only
FINGERPRINT_LENGTH = 20  # 80 bits: a collision among a million artifacts has a chance of about 4e-13


def canonical(value: Any, where: str = "value") -> str:
    """Return the canonical JSON text of a value made of None, bool, int, finite float, str, list, tuple and str-keyed mappings.

    Tuples equal lists; mapping order does not matter; 1, 1.0 and True differ.

    Raises:
        FingerprintError: for any other type; the message names its place, its type and what to write instead.
    """
    return PLAIN.encode(_plain(value, where))


def fingerprint(value: Any) -> str:
    """Return 20 hexadecimal digits that identify `value`; see `canonical` for the allowed types."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:FINGERPRINT_LENGTH]


def _plain(value: Any, where: str) -> Any:
    # Exact types: a numpy scalar is a float subclass whose repr depends on the numpy version, as does a str Enum's on Python's.
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise FingerprintError(f"{where} is {value}, which no identity can hold; use None for 'not set'")
        return value
    # Before mappings: any library of the process can register further types as Mapping.
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{position}]") for position, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if type(key) is not str:
                raise FingerprintError(f"{where} has the key {key!r} of type {type(key).__name__}; keys must be str")
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, PurePath):
        raise FingerprintError(
            f"{where} is the path {str(value)!r}; a path on one machine cannot be part of an identity: "
            "name the data in the recipe and give its path on the command line or in sevila.toml"
        )
    raise FingerprintError(
        f"{where} is a {type(value).__module__}.{type(value).__qualname__}, which cannot be hashed stably; "
        "use None, bool, int, float, str, a list or a str-keyed dict"
    )


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal; raises `OSError`, also if it is not a regular file."""
    with open_file(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
