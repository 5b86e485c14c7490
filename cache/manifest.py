"""Manifests of artifacts at a remote (cache/remote.py): the texts of record and notes, which name the blobs.

A manifest is untrusted, and is checked as strictly as the files of a store.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from cache.errors import CorruptArtifactError
from cache.fingerprint import fingerprint
from cache.notes import note_of, note_text
from cache.pool import noted_owner, owner_problem
from cache.pool_listing import PartId
from cache.record import Record, artifact_id
from cache.store import Store
from cache.untrusted import is_count, is_digest, is_name
from cache.upstream import inputs_first

PROGRESS_FILE = re.compile(r"plan\.json|\d{5}\.json")
FIELDS = {"record", "progress", "parts", "sources"}


class Blob(NamedTuple):
    """Bytes by their SHA-256."""

    sha256: str
    size_bytes: int

    @property
    def name(self) -> str:
        """The file's name at a remote."""
        return f"blobs/{self.sha256[:2]}/{self.sha256}"


@dataclass(frozen=True)
class Manifest:
    """One artifact at a remote.

    Attributes:
        record_text: the text of its `record.json`.
        progress: texts of its notes, by file name.
        parts: texts of the notes of those of its parts of the pool whose arrays the remote has.
        sources: ids of its outside sources, by the name under which the store remembered them.
    """

    record: Record
    record_text: str
    progress: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[PartId, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    def as_bytes(self) -> bytes:
        """Return the bytes that `parse` reads."""
        parts = {"/".join(part): text for part, text in sorted(self.parts.items())}
        content = {"record": self.record_text, "progress": dict(self.progress), "parts": parts}
        return note_text({**content, "sources": dict(self.sources)})

    @classmethod
    def parse(cls, id: str, content: bytes, where: str) -> Manifest:
        """Return the manifest in the bytes of a file; `where` names the file in errors.

        Raises:
            CorruptArtifactError: the bytes are damaged, or no stage can have made the artifact.
        """
        note = note_of(content, where)
        if note.keys() != FIELDS or not all(isinstance(note[name], dict) for name in FIELDS - {"record"}):
            raise CorruptArtifactError(f"{where}: holds {sorted(note)}, expected {sorted(FIELDS)}")
        texts = [note["record"], *note["progress"].values(), *note["parts"].values()]
        names = [*note["progress"], *note["sources"].values()]
        if not all(isinstance(text, str) for text in texts) or not all(map(is_name, names)):
            raise CorruptArtifactError(f"{where}: holds values that are no texts, or unsafe names")
        record = Record.parse(note["record"].encode(), where)
        if artifact_id(record.stage, record.version, record.config, record.inputs) != id or record.id != id:
            raise CorruptArtifactError(f"{where}: is the manifest of {record.id}, or its id does not match its config")
        parts = {_part_of(name, where): text for name, text in note["parts"].items()}
        manifest = cls(record, note["record"], note["progress"], parts, note["sources"])
        if not all(PROGRESS_FILE.fullmatch(name) for name in manifest.progress):
            raise CorruptArtifactError(f"{where}: holds {sorted(manifest.progress)}, expected notes of a stage")
        for part, text in parts.items():
            array_of(part, text, record, where)
        return manifest

    def files(self) -> Iterator[tuple[str, Blob]]:
        """Yield the artifact's files by name."""
        return ((name, Blob(file["sha256"], file["size_bytes"])) for name, file in self.record.files.items())

    def arrays(self) -> Iterator[tuple[PartId, Blob]]:
        """Yield the arrays of its parts of the pool."""
        return ((part, array_of(part, text, self.record, part[2])) for part, text in self.parts.items())

    def blobs(self) -> set[Blob]:
        """Return all blobs of its files and arrays."""
        return {blob for _, blob in (*self.files(), *self.arrays())}

    def without(self, stages: Collection[str]) -> Manifest:
        """Return the manifest, without its parts of the pool if its stage is one of these."""
        return replace(self, parts={}) if self.record.stage in stages else self


def manifest_name(id: str) -> str:
    """Return the file name of an artifact's manifest at a remote."""
    return f"artifacts/{id}.json"


def array_of(part: PartId, text: str, record: Record, where: str) -> Blob:
    """Return the blob of a part's array, from its note; raises `CorruptArtifactError` if that is invalid or another part's."""
    try:
        note = note_of(text.encode(), where)
        blob = Blob(note["file"]["sha256"], note["file"]["size_bytes"])
        problem = owner_problem(noted_owner(note), part)
        is_own = part[0] == record.pool and fingerprint(note["frame_indices"]) == part[2]
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptArtifactError(f"{where}: the note of {'/'.join(part)} is invalid: {error}") from error
    if problem or not is_own:
        raise CorruptArtifactError(f"{where}: {'/'.join(part)}: {problem or 'is not a part of this artifact'}")
    if not (is_digest(blob.sha256) and is_count(blob.size_bytes)):
        raise CorruptArtifactError(f"{where}: {'/'.join(part)}: has {blob}, expected size and SHA-256 of its array")
    return blob


def _part_of(name: str, where: str) -> PartId:
    names = name.split("/")
    if len(names) != 3 or not all(map(is_name, names)):
        raise CorruptArtifactError(f"{where}: {name!r} is not the name of a part of the pool")
    return names[0], names[1], names[2]


def same_arrays(one: str, other: str) -> bool:
    """Return whether two notes of one part, given as texts, describe the same array."""
    a, b = (note_of(text.encode(), "").get("array") for text in (one, other))
    return bool(a == b)


def with_inputs(store: Store, ids: Collection[str], is_here: Callable[[str], bool]) -> list[str]:
    """Return the ids that are here and everything upstream of them that is here, each after its inputs."""

    def inputs_of(id: str) -> list[str]:
        return [input for input in store.record(id).inputs.values() if input and is_here(input)]

    known: dict[str, None] = {}
    return [id for last in ids if is_here(last) for id in inputs_first(last, inputs_of, known, None)]
