"""From a request to the arguments of a chain: the recipe, the run context, and the sources."""

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
        settings: `stage.key=value`, which override the recipe's.
        seed: of all random choices, and of the demo's world.
        places: by kind, as `PlaceLookup` takes them; the demo has its own if none are given.
        shared: whether the places also serve other recipes, so that names this recipe does not have are allowed.
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
    """Return the recipe, `run` with the sources, and the sources; generate the demo's world if it is missing.

    Args:
        stages: those that a recipe may configure, by name.
        remembered: kinds of places taken from the store, as for `Sources`; with all of them nothing is downloaded.

    Raises:
        RecipeError: the recipe, a setting or a place is wrong.
    """
    recipe = load(request.recipe, stages, request.settings, request.seed)  # first, as it may fail; rendering takes long
    places = request.places
    if not request.shared:
        check_names([recipe], places)
    if brings_data(request.recipe) and not (places.get("annotations") or places.get("videos")):
        places = {**places, **places_in(run.store, request.recipe, request.seed or 0)}
    is_offline = set(KINDS) <= set(remembered)
    sources = Sources(run.store.digests, places, run.download and not is_offline, remembered)
    return recipe, replace(run, sources=sources), sources
