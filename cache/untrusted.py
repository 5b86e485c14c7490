"""Checks of untrusted content before its use: names that lead out of the store, and records that no stage can have written.

Artifacts may come from untrusted sources: nothing in one may name a file outside it, or run code. cache/hdf5.py and
cache/parquet.py refuse files that claim more bytes than they hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache.errors import CorruptArtifactError

SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
ARTIFACT = re.compile(r".+-v\d+-[0-9a-f]+")
DIGEST = re.compile(r"[0-9a-f]{64}")
# Fields of a record, by type.
MAPPINGS = ("config", "inputs", "schemas", "files", "rows", "dropped", "libraries", "phase_seconds", "input_contents")
TEXTS = ("host", "device", "started", "finished", "git_revision", "pool", "content")


def is_name(text: Any) -> bool:
    """Return whether a value is one plain name: an id or a file name that stays in its folder on every file system."""
    return isinstance(text, str) and SAFE_NAME.fullmatch(text) is not None


def is_artifact_id(text: str) -> bool:
    """Return whether an id has the form of an artifact's, not of an outside source's."""
    return ARTIFACT.fullmatch(text) is not None


def path_inside(folder: Path, name: str) -> Path:
    """Return the path of one of a folder's files.

    Raises:
        CorruptArtifactError: the name leads out of the folder, or through a link.
    """
    parts = name.split("/")
    if not all(map(is_name, parts)) or any(folder.joinpath(*parts[: n + 1]).is_symlink() for n in range(len(parts))):
        raise CorruptArtifactError(
            f"{folder}: the file name {name!r} leads out of it, or through a link; it is not read"
        )
    return folder / name


def record_problem(content: Mapping[str, Any]) -> str:
    """Return what is wrong with the fields of an untrusted record; empty if nothing is."""
    for field in ("id", "stage", "kind"):
        if not is_name(content[field]):
            return f"{field} is {content[field]!r}, expected a name"
    if not is_count(content["version"]):
        return f"version is {content['version']!r}, expected a number"
    for field in MAPPINGS:
        if not isinstance(content[field], dict):
            return f"{field} is a {type(content[field]).__name__}, expected a mapping"
    for field in TEXTS:
        if not isinstance(content[field], str) and (content[field] is not None or field != "git_revision"):
            return f"{field} is {content[field]!r}, expected text"
    for field in ("peak_memory_bytes", "peak_gpu_memory_bytes"):
        if not is_count(content[field]):
            return f"{field} is {content[field]!r}, expected a number of bytes"
    for table, schema in content["schemas"].items():
        if not isinstance(schema, dict) or not isinstance(schema.get("columns"), dict) or "version" not in schema:
            return f"the schema of {table!r} is {schema!r}, expected a version and columns"
    for phase, seconds in content["phase_seconds"].items():
        if not isinstance(seconds, int | float):
            return f"{phase!r} took {seconds!r}, expected seconds"
    for name, id in content["inputs"].items():
        if id is not None and not is_name(id):
            return f"input {name} is {id!r}, expected an id"
    for name, file in content["files"].items():
        if not all(map(is_name, name.split("/"))):
            return f"the file name {name!r} leads out of the artifact"
        if not isinstance(file, dict) or not is_count(file.get("size_bytes")) or not is_digest(file.get("sha256")):
            return f"file {name!r} is {file!r}, expected its size and SHA-256"
    for table, count in (*content["rows"].items(), *content["dropped"].items()):
        if not is_count(count):
            return f"{table!r} counts {count!r}, expected a number from 0"
    for name, digest in (("", content["content"]), *content["input_contents"].items()):
        if not isinstance(digest, str) or ((digest or name) and not all(map(is_name, digest.split(".")))):
            return f"the content of {name or 'the artifact'} is {digest!r}, expected a digest"
    if content["pool"] and not is_name(content["pool"]):
        return f"pool is {content['pool']!r}, expected a name"
    return ""


def is_count(value: Any) -> bool:
    """Return whether a value is an int from 0 to 2**63 - 1."""
    return type(value) is int and 0 <= value < 1 << 63


def is_digest(value: Any) -> bool:
    """Return whether a value is a SHA-256 in hexadecimal."""
    return isinstance(value, str) and DIGEST.fullmatch(value) is not None
