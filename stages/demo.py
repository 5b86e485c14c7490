"""The recipe that brings its own data: where the demo's world lies in a store."""

from __future__ import annotations

import logging

from cache.files import refuse_link, refuse_links
from cache.store import Store

log = logging.getLogger("sevila")

DEMO = "demo"


def places_in(store: Store, seed: int) -> dict[str, list[str]]:
    """Return where the demo's annotations and videos lie, as `Sources` takes them; a world that is not there is written.

    Raises:
        StoreError: a link lies in it or on the way to it.
    """
    from pipeline.demo import demo_places

    folder = store.root / DEMO / f"seed-{seed}"
    log.info("the demo's own videos and questions: %s", folder)
    refuse_link(folder, store.root)
    with store.lock(f"{DEMO}-{seed}"):  # two runs may find it missing at the same time
        refuse_links(folder)
        return demo_places(folder, seed)
