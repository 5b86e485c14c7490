"""Recipes with generated data: their videos and annotations, written to a folder of the store on first use.

The chain trains the backbone of `demo`, from the same seed.
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
"""By recipe, the function that writes its videos and annotations, given folder and seed."""


def brings_data(recipe: str) -> bool:
    """Return whether the recipe of this name generates its annotations and videos."""
    return recipe in WRITERS


def has_world(store: Store, recipe: str, seed: int) -> bool:
    """Return whether the store has the recipe's generated videos and annotations."""
    return (_folder(store, recipe, seed) / "complete").exists()


def _folder(store: Store, recipe: str, seed: int) -> Path:
    return store.root / recipe / f"seed-{seed}"


def places_in(store: Store, recipe: str, seed: int) -> dict[str, list[str]]:
    """Generate a recipe's annotations and videos if they are missing; return their places, as `Sources` takes them.

    The demo's narrations form another data set, `timed_text`: labels for weakly supervised pre-training of the Localizer.

    Raises:
        StoreError: the folder contains a symbolic link, or its path does.
    """
    folder = _folder(store, recipe, seed)
    log.info("the recipe's own videos and questions: %s", folder)
    refuse_link(folder, store.root)
    with store.lock(f"{recipe}-{seed}"):  # against concurrent runs
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
