"""Notes: small JSON files, each with a checksum of its own content."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from cache.errors import CorruptArtifactError
from cache.files import NOT_A_FILE, read_whole, write_atomically
from cache.fingerprint import PLAIN, canonical

CHECKSUM = "checksum"
NOTE_LIMIT_BYTES = 256 << 20  # far above any note that the store writes


def write_note(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping of plain values atomically as JSON, with the SHA-256 of its canonical text under `checksum`."""
    write_atomically(path, note_text(content))


def note_text(content: Mapping[str, Any]) -> bytes:
    """Return the bytes that `write_note` writes."""
    return json.dumps({**content, CHECKSUM: checksum(content)}, indent=1, ensure_ascii=False).encode()


def read_note(path: Path) -> dict[str, Any]:
    """Return the mapping that `write_note` wrote, without its checksum.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptArtifactError: it is not JSON, or its checksum is missing or does not match.
    """
    return note_of(read_note_bytes(path), path)


def note_of(content: bytes, where: Path | str) -> dict[str, Any]:
    """Return the mapping in the bytes of a note, without its checksum; raises `CorruptArtifactError` if it is damaged."""
    return whole(content) or checked(parsed(content, where), where)


def whole(text: bytes) -> dict[str, Any] | None:
    """Return the mapping in a note, without its checksum, if a fast check with orjson succeeds; None is no verdict.

    orjson rounds integers above 64 bits, and writes some small numbers differently from `canonical`.
    """
    try:
        content: dict[str, Any] = orjson.loads(text)
        noted = content.pop(CHECKSUM)
        is_whole = noted == hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return content if is_whole else None


def read_note_bytes(path: Path | str) -> bytes:
    """Return the bytes of a note, unchecked; raises like `read_note`."""
    try:
        return read_whole(path, NOTE_LIMIT_BYTES)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise CorruptArtifactError(f"{path}: {error.strerror}; it was not written by a stage") from error
        if error.errno in (NOT_A_FILE, errno.ELOOP):  # ELOOP: the file was replaced by a link meanwhile
            raise CorruptArtifactError(f"{path}: {error.strerror}; it is not read") from error
        raise


def parsed(text: bytes, path: Path | str) -> dict[str, Any]:
    """Return the mapping in the text of a file, unchecked; raises like `read_note`."""
    try:
        content = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptArtifactError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CorruptArtifactError(f"{path}: holds a {type(content).__name__}, expected a mapping")
    return content


def checked(content: dict[str, Any], path: Path | str) -> dict[str, Any]:
    """Return the mapping of a note without its checksum; raises `CorruptArtifactError` if that does not match."""
    try:
        noted = content.pop(CHECKSUM, None)
        text = PLAIN.encode(content)
        is_whole = noted == hashlib.sha256(text.encode()).hexdigest()
    except (ValueError, RecursionError):  # a NaN, a lone surrogate, deep nesting: `write_note` writes none of these
        is_whole = False
    if not is_whole:
        raise CorruptArtifactError(f"{path}: its content does not match its checksum")
    return content


def checksum(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the content's canonical text, in hexadecimal."""
    return hashlib.sha256(canonical(content).encode()).hexdigest()
