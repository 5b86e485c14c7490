"""From options to what runs: the recipe, how and where to run it, and its sources."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from cli.options import Chain, Execution

if TYPE_CHECKING:
    from cache.store import Store
    from pipeline.engine.recipe import Recipe
    from pipeline.engine.sources import Sources
    from pipeline.engine.stage import RunContext


def open_recipe(
    name: str, chain: Chain, seed: int | None, store: Store, download: bool = True, remembered: Collection[str] = ()
) -> tuple[Recipe, RunContext, Sources]:
    """Return the recipe, how and where to run it, and its sources; `remembered` is as for `Sources`."""
    from pipeline.engine.recipe import load
    from pipeline.engine.sources import Sources
    from pipeline.recipes.checks import check_names
    from pipeline.shapes.demo import DEMO, places_in
    from stages.chain import STAGES

    recipe = load(name, STAGES, chain.settings, seed)  # before a world is rendered for it
    places = chain.places.by_kind()
    check_names(recipe, places)
    if name == DEMO and not any(places.values()):
        places = places_in(store, seed or 0)
    sources = Sources(store.digests, places, download, remembered)
    return recipe, run_context(chain.execution, store, sources), sources


def run_context(execution: Execution, store: Store, sources: Sources) -> RunContext:
    """Return how and where the options say to run."""
    from pipeline.engine.stage import RunContext

    return RunContext(
        store,
        device=execution.device,
        batch_tokens=execution.batch_tokens,
        decode_workers=execution.decode_workers,
        shard_bytes=int(execution.shard_megabytes * 2**20),
        sources=sources,
        processes=execution.processes,
        tensorboard=execution.tensorboard,
    )
