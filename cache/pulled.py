"""What a pull brought that artifacts do not say themselves, in `<root>/pulled.json`.

What the store they came from remembered of files outside it, which serves as what a store below remembers does; and which
artifacts came without all of their arrays, so that those count as left out, not as lost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from cache.files import refuse_link
from cache.notes import read_note, write_note
from cache.pool_listing import PartId
from cache.pool_reader import is_there
from cache.record import Record
from cache.store import PULLED, Store

BRING_OR_MAKE = (
    "`sevila cache pull` of them all brings these, `sevila stage STAGE RECIPE --again` makes them where it can"
)


def note_pulled(
    store: Store, sources: Mapping[str, str], left_out: Collection[str] = (), complete: Collection[str] = ()
) -> None:
    """Add sources and artifacts without all their arrays; forget of those that are complete now that they were not."""
    path = store.root / PULLED
    refuse_link(path)
    with store.lock("pulled"):
        before = _read(path)
        artifacts = [id for id in dict.fromkeys([*before["left_out"], *left_out]) if id not in complete]
        now = {"files": {}, "sources": {**before["sources"], **sources}, "left_out": artifacts}
        if now != before:
            write_note(path, now)


def absent_parts(store: Store, record: Record, parts: Iterable[PartId]) -> set[PartId]:
    """Return those parts of the pool of which nothing is here, of an artifact that was pulled without all of them."""
    layer = store.layer(record.id)
    is_incomplete = record.pool and record.id in _read(layer / PULLED)["left_out"]
    return {part for part in parts if not is_there(store, part)} if is_incomplete else set()


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_note(path)
    except FileNotFoundError:
        return {"files": {}, "sources": {}, "left_out": []}
