"""From what somebody asks for to what a chain is walked with: the recipe, how and where to run it, and its sources."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.engine.places import KINDS
from pipeline.engine.recipe import Recipe, load
from pipeline.engine.sources import Sources
from pipeline.engine.stage import RunContext, Stage
from pipeline.recipes.checks import check_names
from pipeline.shapes.demo import brings_data, places_in


@dataclass(frozen=True)
class Request:
    """A request, from the command line or to a worker.

    Attributes:
        recipe: name of a recipe, or path of a `.toml` file.
        settings: `stage.key=value`, over the recipe's.
        seed: of all that is random, and of the demo's world.
        places: of each kind, as `PlaceLookup` takes them; the demo brings its own where none is given.
        shared: the places serve other recipes, too: names that this one does not have are no slips.
    """

    recipe: str
    settings: Sequence[str] = ()
    seed: int | None = None
    places: Mapping[str, Sequence[str]] = field(default_factory=dict)
    shared: bool = False


def open_recipe(
    request: Request,
    stages: Mapping[str, Stage],
    run: RunContext,
    remembered: Collection[str] = (),
) -> tuple[Recipe, RunContext, Sources]:
    """Return the recipe, `run` with the sources, and the sources; the demo's world is written if it is not there.

    Args:
        stages: those that a recipe may have sections of, by name.
        remembered: as for `Sources`; who has the store remember all only looks, and nothing is fetched from the model hub.

    Raises:
        RecipeError: the recipe, a setting or a place is wrong.
    """
    recipe = load(request.recipe, stages, request.settings, request.seed)  # before a world is rendered for it
    places = request.places
    if not request.shared:
        check_names([recipe], places)
    if brings_data(request.recipe) and not (places.get("annotations") or places.get("videos")):
        places = {**places, **places_in(run.store, request.recipe, request.seed or 0)}
    only_looks = set(KINDS) <= set(remembered)
    sources = Sources(run.store.digests, places, run.download and not only_looks, remembered)
    return recipe, replace(run, sources=sources), sources
