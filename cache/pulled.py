"""Facts about pulled artifacts that these do not hold themselves, in `<root>/pulled.json`.

The identities of outside sources that the original store remembered, used like those of a store below; and the artifacts that
were pulled without all of their arrays, so that these count as left out, not as lost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from cache.files import refuse_link
from cache.notes import read_note, write_note
from cache.pool_listing import PartId
from cache.pool_reader import has_part
from cache.record import Record
from cache.store import PULLED, Store

PULL_OR_MAKE = "a complete `sevila cache pull` copies them, `sevila stage STAGE RECIPE --again` makes them"


def note_pulled(
    store: Store, sources: Mapping[str, str], left_out: Collection[str] = (), complete: Collection[str] = ()
) -> None:
    """Add outside sources and artifacts without all their arrays, and remove artifacts that are complete now."""
    path = store.root / PULLED
    refuse_link(path)
    with store.lock("pulled"):
        before = _read(path)
        artifacts = [id for id in dict.fromkeys([*before["left_out"], *left_out]) if id not in complete]
        now = {"files": {}, "sources": {**before["sources"], **sources}, "left_out": artifacts}
        if now != before:
            write_note(path, now)


def absent_parts(store: Store, record: Record, parts: Iterable[PartId]) -> set[PartId]:
    """Return the absent ones of an artifact's parts of the pool, if it was pulled without all of them."""
    layer = store.layer(record.id)
    is_incomplete = record.pool and record.id in _read(layer / PULLED)["left_out"]
    return {part for part in parts if not has_part(store, part)} if is_incomplete else set()


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_note(path)
    except FileNotFoundError:
        return {"files": {}, "sources": {}, "left_out": []}
