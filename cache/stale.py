"""Which artifacts are stale: an input, directly or through others, has other content now than they were made from."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from cache.errors import CorruptArtifactError, StoreError
from cache.record import Record
from cache.upstream import inputs_first

if TYPE_CHECKING:
    from cache.store import Store


def why_stale(store: Store, artifact: str, known: dict[str, str]) -> str:
    """Return which input has other content now than a published artifact was made from.

    Empty if none has, and where that cannot be compared, as the input is not in the store. Nothing but records is read.

    Args:
        known: what was found out of other artifacts; gains what is found out here.
    """
    if artifact in known:
        return known[artifact]
    records: dict[str, Record] = {}

    def inputs_of(id: str) -> list[str]:
        with suppress(CorruptArtifactError, StoreError):  # damaged, as its reader says, or from outside, or gone
            records[id] = store.record(id)
            return [input for input in records[id].inputs.values() if input is not None and input not in known]
        return []

    for id in inputs_first(artifact, inputs_of, known, ""):
        if id in records:
            known[id] = why_record_stale(store, records[id], known)
    return known[artifact]


def why_record_stale(store: Store, record: Record, known: dict[str, str]) -> str:
    """Return the same of an artifact that may not be published yet."""
    for name, input in record.inputs.items():
        if input is None:
            continue
        try:
            now = store.record(input).content
        except (CorruptArtifactError, StoreError):  # damaged, as its reader says; one from outside, or gone
            continue
        if record.input_contents.get(name, now) != now:
            return f"its input {name} {input} has other content now"
        upstream = why_stale(store, input, known)
        if upstream:
            return f"{input} is stale: {upstream}" if " is stale: " not in upstream else upstream
    return ""
