"""TOML files that people write: recipes, matrices, sevila.toml."""

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
    """Return what a TOML file holds, with or without a byte order mark.

    Raises:
        OSError: it cannot be opened, or is a folder or a pipe.
        ValueError: it is not TOML or not UTF-8, or larger than anybody writes; the message does not name the file.
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
    """Return the TOML files of a folder by their names without the suffix, in that order."""
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_named(what: str, name: str, known: Mapping[str, Path]) -> tuple[Path, dict[str, Any]]:
    """Return path and content of a recipe, say (`what`): one of those `known` by name, or any by its path.

    Raises:
        RecipeError: there is no such file, or it is not TOML.
    """
    path, names = known.get(name, Path(name)), ", ".join(known)
    if kind := kind_of(path):
        raise RecipeError(f"{path}: it is {kind}, a {what} is a file or a name; names: {names}")
    if not path.is_file():
        raise RecipeError(f"no {what} {name!r}: neither a file nor one of {names}{did_you_mean(name, known)}")
    try:
        return path, read_toml(path)
    except ValueError as error:
        raise RecipeError(f"{path}: not readable as TOML: {error}") from error


def typed_value(text: str) -> Any:
    """Return what the text means as a TOML value, else the text: a word needs no quotes on the command line."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text
