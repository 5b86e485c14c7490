"""The embedded default: the recipe that brings its own data, and where its world lies in a store.

Its backbone is trained by the chain, from the same seed.
"""

from __future__ import annotations

import logging
from pathlib import Path

from cache.files import refuse_link, refuse_links
from cache.store import Store
from pipeline.shapes.files import write_shapes

log = logging.getLogger("sevila")

DEMO = "demo"


def demo_places(folder: Path, seed: int = 0) -> dict[str, list[str]]:
    """Return where the demo's annotations, videos and narrations lie, as `Sources` takes them; write them if need be.

    The narrations are a data set of their own, `timed_text`: labels for the Localizer's weakly supervised pre-training.
    """
    if not (folder / "complete").exists():
        write_shapes(folder, seed)
        (folder / "complete").touch()
    videos = folder / "videos"
    return {
        "annotations": [f"shapes={folder}", f"timed_text={folder / 'timed_text'}"],
        "videos": [f"shapes={videos}", f"timed_text={videos}"],
        "weights": [],
    }


def places_in(store: Store, seed: int) -> dict[str, list[str]]:
    """Return where the demo's annotations and videos lie, as `Sources` takes them; a world that is not there is written.

    Raises:
        StoreError: a link lies in it or on the way to it.
    """
    folder = store.root / DEMO / f"seed-{seed}"
    log.info("the demo's own videos and questions: %s", folder)
    refuse_link(folder, store.root)
    with store.lock(f"{DEMO}-{seed}"):  # two runs may find it missing at the same time
        refuse_links(folder)
        return demo_places(folder, seed)
