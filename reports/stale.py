"""Commands that read artifacts as they are say so where a run would rebuild them, or where they are of another kind."""

import logging
from typing import TypeVar

from cache.errors import StoreError
from cache.store import Store
from pipeline.engine.stage import Artifact

log = logging.getLogger("sevila")

OfKind = TypeVar("OfKind", bound=Artifact)


def warn_if_stale(store: Store, id: str) -> str:
    """Return `id`, after a warning where its inputs have other content now than it was made from."""
    if why := store.why_stale(id):
        log.warning("%s is stale: %s; `sevila run` with its recipe rebuilds it", id, why)
    return id


def read_as(store: Store, id: str, kind: type[OfKind], stages: str) -> OfKind:
    """Return an artifact, after a warning where it is stale; raises `StoreError` unless it is what these stages make."""
    if (holds := store.record(id).kind) != kind.kind:
        raise StoreError(f"{id} holds {holds}; wanted an artifact of {stages} (`sevila cache ls` lists them)")
    return kind(store, warn_if_stale(store, id))
