"""Reading of annotation files, as bytes, text or a JSON object, and recording of their digests."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from sys import intern
from typing import Any

from cache.errors import MissingSourceError, SchemaError
from cache.files import open_file
from pipeline.downloads import HEAD_BYTES, no_text

logger = logging.getLogger(__name__)

_digests: ContextVar[dict[Path, str] | None] = ContextVar("digests", default=None)


@contextmanager
def digests_of_what_is_read() -> Iterator[Mapping[Path, str]]:
    """Yield the SHA-256 of each annotation file read in the block, of exactly the bytes that are parsed."""
    read: dict[Path, str] = {}
    token = _digests.set(read)
    try:
        yield read
    finally:
        _digests.reset(token)


def read_bytes(path: Path, kind: str = "annotation file") -> bytes:
    """Return the file's bytes; `kind` names the expected file in messages. Raises MissingSourceError if it cannot be read."""
    try:
        with open_file(path) as stream:
            data = stream.read()
    except OSError as error:
        article = "an" if kind[0] in "aeiou" else "a"
        raise MissingSourceError(f"{path}: cannot be read ({error.strerror}); {article} {kind} was wanted") from error
    read = _digests.get()
    if read is not None:
        read[path] = hashlib.sha256(data).hexdigest()
    return data


def read_text(path: Path, kind: str = "annotation file") -> str:
    """Return the file's text without byte order marks, with unchanged line ends; `kind` as for `read_bytes`.

    Raises MissingSourceError if it cannot be read, SchemaError if it is not text (an archive, an HTML page of a server), with
    the byte offset if it is not UTF-8.
    """
    data = read_bytes(path, kind)
    problem = no_text(data[:HEAD_BYTES])
    if problem:
        raise SchemaError(f"{path}: {problem}")
    try:
        # Not "utf-8-sig", which counts the offset of a bad byte from after the mark.
        return data.decode("utf-8").lstrip("\ufeff")
    except UnicodeDecodeError as error:
        problem = f"byte 0x{data[error.start]:02x} at offset {error.start} is not UTF-8"
        raise SchemaError(f"{path}: {problem}; save the file as UTF-8") from error


def read_json_object(path: Path, example: str) -> dict[str, Any]:
    """Return the object in a JSON file; `example` shows one in messages. Raises as `read_text`, SchemaError for another value."""
    content = read_text(path)
    try:
        value = json.loads(content, object_pairs_hook=as_object)
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"{path}: not JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise SchemaError(f"{path}: not an object like {example}")
    return value


def as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; raises ValueError for a key with two values, of which `json` would take the last in silence."""
    content = {intern(key): value for key, value in pairs}  # each row has the same keys
    if len(content) < len(pairs) and (twice := [key for key, value in pairs if repr(content[key]) != repr(value)]):
        raise ValueError(f"the key {twice[0]!r} stands twice, with other values")
    return content


def warn_if_cut(path: Path, content: str) -> None:
    """Warn of a CSV file without a final line end, the only sign of a file cut inside its last cell."""
    if content and not content.endswith(("\n", "\r")):
        last = content.splitlines()[-1]
        logger.warning(
            "%s: the last line has no line end; if the file was cut short, its last row is wrong: %.80s", path, last
        )
