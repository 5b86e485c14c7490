"""The record of an artifact: its identity, its inputs, and a digest of its content.

The content is what equal runs agree on: files and row counts without the measured tables, and for an artifact with arrays in
the pool these arrays. It is written `<digest>`, or `<digest>.<digest of the arrays>`.
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
PROGRESS = "progress"  # folder with the plan and shard notes of a sharded artifact; not part of its content
PLAN = f"{PROGRESS}/plan.json"
RECORD = "record.json"
DROPPED = "dropped.json"  # the former record, in the folder of an artifact that was dropped as damaged


def artifact_id(stage: str, version: int, config: dict[str, Any], inputs: dict[str, str | None]) -> str:
    """Return `stage-v1-<20 hexadecimal digits>`: the identity of a stage's output for this config and these inputs."""
    return f"{stage}-v{version}-{fingerprint({'config': config, 'inputs': inputs})}"


@dataclass(frozen=True)
class Record:
    """Everything known about one artifact; the content of `record.json`.

    Attributes:
        files: size in bytes and SHA-256 by file name, relative to the artifact.
        rows: number of rows per table.
        dropped: number of rows that carry a failure, by reason code (`truncated`, `missing`, ...).
        phase_seconds: wall seconds per phase, summed over the processes that took part.
        device: the GPU if the stage ran a model on one, else `cpu`.
        peak_memory_bytes: peak memory of the process during the build, or since its start on systems that cannot reset the
            count (Linux can). `peak_gpu_memory_bytes` is torch's count.
        pool: the pool space that its `parts` table points into (see cache/pool.py); empty if it holds all its data.
        content: digest of its content, arrays in the pool included.
        input_contents: the content of each input artifact when the stage read it, by name.
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
            CorruptArtifactError: its bytes have changed, it is of another record version, has other fields, or its files or row
                counts do not match its content digest.
        """
        try:
            note = _fields(read_note_bytes(path), path)
        except CorruptArtifactError as error:
            raise CorruptArtifactError(f"{error}; {repair_hint(path)}") from error
        return cls._of_fields(note, path)

    @classmethod
    def parse(cls, text: bytes, path: Path | str) -> Record:
        """Return the record in the bytes of a `record.json`; raises like `load`."""
        return cls._of_fields(_fields(text, path), path)

    @classmethod
    def _of_fields(cls, content: dict[str, Any], path: Path | str) -> Record:
        if content.keys() != cls.__dataclass_fields__.keys():
            differing = sorted(content.keys() ^ cls.__dataclass_fields__.keys())
            raise CorruptArtifactError(f"{path}: its fields differ from a record's: {differing}; {repair_hint(path)}")
        problem = record_problem(content)
        if problem:
            raise CorruptArtifactError(f"{path}: {problem}; it was not written by a stage: {repair_hint(path)}")
        record = object.__new__(cls)  # the constructor of a frozen dataclass takes ten times as long
        record.__dict__.update(content)
        if record.content.split(".")[0] != record.own_digest():
            raise CorruptArtifactError(
                f"{path}: its files or row counts do not match its content digest; {repair_hint(path)}"
            )
        return record

    @property
    def seconds(self) -> float:
        """Wall seconds from start to finish."""
        return (datetime.fromisoformat(self.finished) - datetime.fromisoformat(self.started)).total_seconds()

    def as_note(self) -> dict[str, Any]:
        """Return the fields for `record.json`."""
        return dataclasses.asdict(self)

    def own_digest(self) -> str:
        """Return the digest of the artifact's own files and row counts, without the measured tables and the pool's arrays."""
        measured = {name for name, schema in self.schemas.items() if schema.get("measured")}
        files = {
            name: file["sha256"]
            for name, file in self.files.items()
            if not measured or name.split(".")[0].split("/")[0] not in measured
        }
        # For names, digests and counts, orjson writes the same text as `canonical`.
        text = orjson.dumps({"files": files, "rows": self.rows}, option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(text).hexdigest()[:FINGERPRINT_LENGTH]

    def is_stripped(self, folder: Path) -> bool:
        """Return whether it declares tables but names no files, although its plan in `folder` does not have zero shards."""
        if not self.schemas or self.files:
            return False
        try:
            return bool(read_note(folder / PLAN).get("shards", True))
        except (CorruptArtifactError, OSError):
            return True

    def sealed(self, arrays: str = "") -> Record:
        """Return the record with the content digest of its files and rows; `arrays` is the digest of its arrays in the pool."""
        return dataclasses.replace(self, content=".".join(filter(None, (self.own_digest(), arrays))))


def _fields(text: bytes, path: Path | str) -> dict[str, Any]:
    """Return the fields in a record's bytes; raises `CorruptArtifactError` if these have changed, or have another version."""
    verified = whole(text)
    content = verified or parsed(text, path)
    version = content.get("record_version")
    if version != RECORD_VERSION:
        raise CorruptArtifactError(f"{path}: record version {version}, expected {RECORD_VERSION}")
    return verified or checked(content, path)


def describe_files(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """Return the entries of files in a record: size in bytes and SHA-256."""
    return {
        name: {"size_bytes": (folder / name).stat().st_size, "sha256": file_digest(folder / name)}
        for name in sorted(names)
    }
