"""Reading TOML files written by users: recipes, matrices, sevila.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache.errors import RecipeError, did_you_mean
from cache.files import kind_of, open_file
from pipeline.downloads import HEAD_BYTES, no_text

LIMIT_BYTES = 1 << 20


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file, with or without a byte order mark.

    Raises:
        OSError: it cannot be opened, or is a folder or a pipe.
        ValueError: it is not TOML, not UTF-8, or larger than `LIMIT_BYTES`; the message does not name the file.
    """
    with open_file(path) as stream:
        content = stream.read(LIMIT_BYTES + 1)
    if problem := no_text(content[:HEAD_BYTES]):
        raise ValueError(problem)
    if len(content) > LIMIT_BYTES:
        raise ValueError(f"more than {LIMIT_BYTES} bytes")
    try:
        return tomllib.loads(content.decode("utf-8").lstrip("\ufeff"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def toml_files(folder: Path) -> dict[str, Path]:
    """Return the TOML files of a folder by name without suffix, sorted."""
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_named(noun: str, name: str, known: Mapping[str, Path]) -> tuple[Path, dict[str, Any]]:
    """Return path and content of a file, given the name of one in `known`, or a path; `noun` describes it in messages.

    Raises:
        RecipeError: there is no such file, or it is not TOML.
    """
    path, names = known.get(name, Path(name)), ", ".join(known)
    if kind := kind_of(path):
        raise RecipeError(f"{path}: it is {kind}, a {noun} is a file or a name; names: {names}")
    if not path.is_file():
        raise RecipeError(f"no {noun} {name!r}: neither a file nor one of {names}{did_you_mean(name, known)}")
    try:
        return path, read_toml(path)
    except ValueError as error:
        raise RecipeError(f"{path}: not readable as TOML: {error}") from error


def typed_value(text: str) -> Any:
    """Parse text as a TOML value; return the text itself if it is none, so that words need no quotes on the command line."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text
