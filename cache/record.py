"""The record of an artifact: what it is, what it was made from, and a digest of its content that others are held against.

Content is what equal runs agree on: files and row counts without the measured tables, and for an artifact whose arrays lie in
the pool the arrays it points to. It is written `<digest>`, or `<digest>.<digest of the arrays>`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from cache.errors import CorruptArtifactError, repair_hint
from cache.fingerprint import FINGERPRINT_LENGTH, file_digest, fingerprint
from cache.notes import checked, parsed, read_note, read_note_bytes, whole
from cache.untrusted import record_problem

RECORD_VERSION = 3
PROGRESS = "progress"  # folder of a sharded artifact's plan and per-shard notes; not part of its content
PLAN = f"{PROGRESS}/plan.json"
RECORD = "record.json"
DROPPED = "dropped.json"  # what was the record, in the folder of an artifact that was dropped as damaged


def artifact_id(stage: str, version: int, config: dict[str, Any], inputs: dict[str, str | None]) -> str:
    """Return `stage-v1-<20 hexadecimal digits>`: the identity of what this stage makes from this config and these inputs."""
    return f"{stage}-v{version}-{fingerprint({'config': config, 'inputs': inputs})}"


@dataclass(frozen=True)
class Record:
    """Everything known about one artifact; the content of `record.json`.

    Attributes:
        files: per file name, relative to the artifact: its size in bytes and SHA-256.
        rows: number of rows per table.
        dropped: number of rows that carry a failure, by reason code (`truncated`, `missing`, ...).
        phase_seconds: wall seconds per phase, summed over the processes that took part.
        device: a GPU where the stage runs a model on one, else `cpu`.
        peak_memory_bytes: most memory that the process held while it made this; where the system cannot restart the count
            for each artifact (Linux can), since the process began. That of the GPU, if any, is torch's own.
        pool: the pool space that its `parts` table points into (see cache/pool.py); empty where it holds all its data.
        content: digest of its own content, arrays in the pool included.
        input_contents: by name, the content of each input artifact when the stage read it.
    """

    id: str
    stage: str
    version: int
    kind: str
    config: dict[str, Any]
    inputs: dict[str, str | None]
    schemas: dict[str, Any] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)
    git_revision: str | None = None
    host: str = ""
    device: str = ""
    started: str = ""
    finished: str = ""
    phase_seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    peak_gpu_memory_bytes: int = 0
    pool: str = ""
    content: str = ""
    input_contents: dict[str, str] = field(default_factory=dict)
    record_version: int = RECORD_VERSION

    @classmethod
    def load(cls, path: Path | str) -> Record:
        """Read a record.

        Raises:
            CorruptArtifactError: its bytes have changed, it was written by another version of the store, has other fields, or
                its files or row counts are not those that were published.
        """
        try:
            note = _fields(read_note_bytes(path), path)
        except CorruptArtifactError as error:
            raise CorruptArtifactError(f"{error}; {repair_hint(path)}") from error
        return cls._of_fields(note, path)

    @classmethod
    def parse(cls, text: bytes, path: Path | str) -> Record:
        """Return the record that the bytes of a `record.json` hold; raises like `load`."""
        return cls._of_fields(_fields(text, path), path)

    @classmethod
    def _of_fields(cls, content: dict[str, Any], path: Path | str) -> Record:
        if content.keys() != cls.__dataclass_fields__.keys():
            differing = sorted(content.keys() ^ cls.__dataclass_fields__.keys())
            raise CorruptArtifactError(f"{path}: fields differ from a record's: {differing}; {repair_hint(path)}")
        problem = record_problem(content)
        if problem:
            raise CorruptArtifactError(f"{path}: {problem}; it was not written by a stage: {repair_hint(path)}")
        record = object.__new__(cls)  # whose constructor, as of any frozen class, takes ten times as long
        record.__dict__.update(content)
        if record.content.split(".")[0] != record.own_digest():
            raise CorruptArtifactError(
                f"{path}: its files or row counts are not those that were published; {repair_hint(path)}"
            )
        return record

    @property
    def seconds(self) -> float:
        """Wall seconds from its beginning to its end."""
        return (datetime.fromisoformat(self.finished) - datetime.fromisoformat(self.started)).total_seconds()

    def as_note(self) -> dict[str, Any]:
        """Return the fields to write."""
        return dataclasses.asdict(self)

    def own_digest(self) -> str:
        """Return the digest of the content that lies in the artifact itself: files and row counts, measured tables left out."""
        measured = {name for name, schema in self.schemas.items() if schema.get("measured")}
        files = {
            name: file["sha256"]
            for name, file in self.files.items()
            if not measured or name.split(".")[0].split("/")[0] not in measured
        }
        # Of names, digests and counts, for which the quick library writes what `canonical` does.
        text = orjson.dumps({"files": files, "rows": self.rows}, option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(text).hexdigest()[:FINGERPRINT_LENGTH]

    def is_stripped(self, folder: Path) -> bool:
        """Whether it, in this folder, declares tables and names no file: only a work of no shards has nothing to write."""
        if not self.schemas or self.files:
            return False
        try:
            return bool(read_note(folder / PLAN).get("shards", True))
        except (CorruptArtifactError, OSError):
            return True

    def sealed(self, arrays: str = "") -> Record:
        """Return the record with the content that its files and rows now have; `arrays` is the digest of those in the pool."""
        return dataclasses.replace(self, content=".".join(filter(None, (self.own_digest(), arrays))))


def _fields(text: bytes, path: Path | str) -> dict[str, Any]:
    """Return what a record's bytes hold; raises `CorruptArtifactError` if they have changed, or are of another version."""
    known_whole = whole(text)
    content = known_whole or parsed(text, path)
    version = content.get("record_version")
    if version != RECORD_VERSION:
        raise CorruptArtifactError(f"{path}: record version {version}, wanted {RECORD_VERSION}")
    return known_whole or checked(content, path)


def describe_files(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of files, as a record keeps them."""
    return {
        name: {"size_bytes": (folder / name).stat().st_size, "sha256": file_digest(folder / name)}
        for name in sorted(names)
    }
