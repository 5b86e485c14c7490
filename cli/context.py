"""From options to what runs: the recipe, how and where to run it, and its sources."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from cli.options import ChainOptions

if TYPE_CHECKING:
    from cache.store import Store
    from pipeline.engine.recipe import Recipe
    from pipeline.engine.sources import Sources
    from pipeline.engine.stage import RunContext


def open_recipe(
    name: str,
    chain: ChainOptions,
    seed: int | None,
    store: Store,
    remembered: Collection[str] = (),
) -> tuple[Recipe, RunContext, Sources]:
    """Return the recipe, how and where to run it, and its sources; `remembered` is as for `Sources`."""
    from pipeline.engine.stage import RunContext
    from pipeline.recipes import opening
    from stages.all import STAGES

    request = opening.Request(name, chain.all_settings(), seed, chain.places.by_kind())
    return opening.open_recipe(request, STAGES, RunContext.of(store, chain.execution.as_options()), remembered)
