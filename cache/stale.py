"""Stale artifacts: the content of an input, direct or indirect, has changed since they were made."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from cache.errors import CorruptArtifactError, StoreError
from cache.record import Record
from cache.upstream import inputs_first

if TYPE_CHECKING:
    from cache.store import Store


def why_stale(store: Store, artifact: str, known: dict[str, str]) -> str:
    """Return which input's content has changed since a published artifact was made; empty if none has.

    Inputs that are not in the store cannot be compared, and count as unchanged. Only records are read.

    Args:
        known: cache of results by id, which is updated.
    """
    if artifact in known:
        return known[artifact]
    records: dict[str, Record] = {}

    def inputs_of(id: str) -> list[str]:
        with suppress(CorruptArtifactError, StoreError):  # damaged (its reader reports it), an outside source, or gone
            records[id] = store.record(id)
            return [input for input in records[id].inputs.values() if input is not None and input not in known]
        return []

    for id in inputs_first(artifact, inputs_of, known, ""):
        if id in records:
            known[id] = why_record_stale(store, records[id], known)
    return known[artifact]


def why_record_stale(store: Store, record: Record, known: dict[str, str]) -> str:
    """Return the same for an artifact that may not be published yet."""
    for name, input in record.inputs.items():
        if input is None:
            continue
        try:
            now = store.record(input).content
        except (CorruptArtifactError, StoreError):  # damaged (its reader reports it), an outside source, or gone
            continue
        if record.input_contents.get(name, now) != now:
            return f"its input {name} {input} has other content now"
        upstream = why_stale(store, input, known)
        if upstream:
            return f"{input} is stale: {upstream}" if " is stale: " not in upstream else upstream
    return ""
