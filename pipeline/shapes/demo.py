"""Recipes that bring their own data: where the world of one lies in a store, written when it is first wanted.

The backbone of `demo` is trained by the chain, from the same seed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from cache.files import refuse_link, refuse_links
from cache.store import Store
from pipeline.shapes.files import write_long_shapes, write_shapes

log = logging.getLogger("sevila")

DEMO = "demo"
WRITERS: Mapping[str, Callable[[Path, int], None]] = {DEMO: write_shapes, "shapes_long": write_long_shapes}
"""By recipe: what writes its videos and annotations into a folder, of a seed."""


def brings_data(recipe: str) -> bool:
    """Return whether the recipe of this name needs no annotations and videos of the user's."""
    return recipe in WRITERS


def has_world(store: Store, recipe: str, seed: int) -> bool:
    """Whether a recipe's own videos and annotations lie in the store."""
    return (_folder(store, recipe, seed) / "complete").exists()


def _folder(store: Store, recipe: str, seed: int) -> Path:
    return store.root / recipe / f"seed-{seed}"


def places_in(store: Store, recipe: str, seed: int) -> dict[str, list[str]]:
    """Return where a recipe's own annotations and videos lie, as `Sources` takes them; what is not there is written.

    The demo's narrations are a data set of their own, `timed_text`: labels for weakly supervised pre-training of the Localizer.

    Raises:
        StoreError: a link lies in it or on the way to it.
    """
    folder = _folder(store, recipe, seed)
    log.info("the recipe's own videos and questions: %s", folder)
    refuse_link(folder, store.root)
    with store.lock(f"{recipe}-{seed}"):  # two runs may find it missing at the same time
        refuse_links(folder)
        if not (folder / "complete").exists():
            WRITERS[recipe](folder, seed)
            (folder / "complete").touch()
    videos = folder / "videos"
    places = {"annotations": [f"shapes={folder}"], "videos": [f"shapes={videos}"]}
    if recipe == DEMO:
        places["annotations"].append(f"timed_text={folder / 'timed_text'}")
        places["videos"].append(f"timed_text={videos}")
    return places
