"""Rebuilding an artifact: the old one is set aside, or removed if it is stale."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cache.files import refuse_link, remove_whole
from cache.record import RECORD
from cache.store import Store, remove_folder

log = logging.getLogger("sevila")


def retire(store: Store, artifact: str) -> None:
    """Remove an artifact if it is stale; one of a store below is hidden instead."""
    with store.lock(f"{artifact}/publish"):
        why = store.why_stale(artifact)
        if store.exists(artifact) and why:
            log.warning("%s: rebuilt, as %s", artifact, why)
            if store.layer(artifact) == store.root:
                remove_folder(store.own(artifact))
            store.hide_below(artifact)


def aside(store: Store, artifact: str) -> Path:
    """Return the folder that holds an artifact while it is rebuilt; raises `LinkError` if it is a link."""
    folder = store.root / "aside" / store.own(artifact).name
    refuse_link(folder)
    return folder


@contextmanager
def set_aside(store: Store, artifact: str) -> Iterator[None]:
    """Unpublish an artifact while the block rebuilds it; it is restored if the block fails, or by the next try after a kill.

    One of a store below stays there; the rebuilt one takes precedence.
    """
    own, kept = store.own(artifact), aside(store, artifact)
    with store.lock(f"{artifact}/publish"):
        remove_whole(store.partial(artifact))
        if own.exists():
            remove_whole(kept)
            kept.parent.mkdir(parents=True, exist_ok=True)
            os.rename(own, kept)
    try:
        with store.hiding_below([artifact]):
            yield
    finally:
        if kept.exists() and not (own / RECORD).exists():
            os.rename(kept, own)
        remove_whole(kept)
