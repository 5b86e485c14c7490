"""Commands that read artifacts as they are say so where a run would rebuild them."""

import logging

from cache.store import Store

log = logging.getLogger("sevila")


def warn_if_stale(store: Store, id: str) -> str:
    """Return `id`, after a warning where its inputs have other content now than it was made from."""
    if why := store.why_stale(id):
        log.warning("%s is stale: %s; `sevila run` with its recipe rebuilds it", id, why)
    return id
