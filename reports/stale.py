"""Opening artifacts for reports: warn about stale ones, and refuse those of another kind."""

import logging
from typing import TypeVar

from cache.errors import StoreError
from cache.store import Store
from pipeline.engine.stage import Artifact

log = logging.getLogger("sevila")

OfKind = TypeVar("OfKind", bound=Artifact)


def warn_if_stale(store: Store, id: str) -> str:
    """Return `id`, after a warning if the content of its inputs has changed since it was built."""
    if why := store.why_stale(id):
        log.warning("%s is stale: %s; `sevila run` with its recipe rebuilds it", id, why)
    return id


def read_as(store: Store, id: str, kind: type[OfKind], stages: str) -> OfKind:
    """Return an artifact, after a warning if it is stale; raises `StoreError` unless it is an output of `stages`."""
    if (record_kind := store.record(id).kind) != kind.kind:
        raise StoreError(f"{id} holds {record_kind}; expected an artifact of {stages} (`sevila cache ls` lists them)")
    return kind(store, warn_if_stale(store, id))
