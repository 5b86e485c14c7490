"""TOML files that people write: recipes, matrices, sevila.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from cache.files import open_file

LIMIT_BYTES = 1 << 20


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file holds, with or without a byte order mark.

    Raises:
        OSError: it cannot be opened, or is a folder or a pipe.
        ValueError: it is not TOML or not UTF-8, or larger than anybody writes; the message does not name the file.
    """
    with open_file(path) as stream:
        content = stream.read(LIMIT_BYTES + 1)
    if len(content) > LIMIT_BYTES:
        raise ValueError(f"more than {LIMIT_BYTES} bytes")
    try:
        return tomllib.loads(content.decode("utf-8").lstrip("\ufeff"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def typed_value(text: str) -> Any:
    """Return what the text means as a TOML value, else the text: a word needs no quotes on the command line."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text
