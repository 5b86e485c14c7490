"""Stages of other packages, by the entry points `sevila.stages`: as a chain's backbone or scorer, and at its end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from cache.errors import RecipeError, SevilaError, did_you_mean
from pipeline.engine.recipe import NOT_LOADED, Recipe, refuse_unknown_stage
from pipeline.engine.sources import Sources
from pipeline.engine.stage import Artifact, Stage
from pipeline.engine.steps import Step
from pipeline.inference.backbone import Backbone
from pipeline.recipes import requirements
from pipeline.recipes.requirements import SplitArtifacts
from pipeline.registry import Registry

NAMED_WEIGHTS = "weights"  # an input of this name is the weights that the key of this name names
Chain = Callable[[Recipe, Step, Sources], Any]


def of_others(ours: Mapping[str, Stage]) -> dict[str, Stage]:
    """Return other packages' stages by name; one that cannot be loaded, or is called as ours, is left out with a warning."""
    stages: dict[str, Stage] = {}
    registry = Registry[Stage]("stage", "sevila.stages", lambda: ours, _problem)
    for name in registry.names_of_others():
        try:
            stages[name] = registry.named(name)
        except SevilaError as error:
            logging.getLogger("sevila").warning("%s", error)
            NOT_LOADED[name] = str(error)
    return stages


def backbone_stage(stages: Mapping[str, Stage], recipe: Recipe) -> Stage:
    """Return the stage that makes the recipe's backbone; raises `RecipeError` if no stage of this name makes one."""
    return _making(
        stages, Backbone, requirements.backbone_stage_name(recipe), "[chain] backbone", ["imported", "trained"]
    )


def scorer_stage(stages: Mapping[str, Stage], kind: type[Artifact], name: str) -> Stage:
    """Return the stage of this name that makes scores, artifacts of `kind`, of what is there before the Localizer's are.

    Raises:
        RecipeError: there is none, or it takes something else.
    """
    stage = _making(stages, kind, name, "[chain] scorer", ["localizer", "imported", "clip", "itm"])
    known = (*SplitArtifacts._fields, NAMED_WEIGHTS)
    if unknown := set(stage.inputs) - {*known}:
        raise RecipeError(
            f"[chain] scorer: {name} takes {', '.join(sorted(unknown))}; of {', '.join(known)} was wanted"
        )
    return stage


def _making(stages: Mapping[str, Stage], kind: type[Artifact], name: str, where: str, also: list[str]) -> Stage:
    known = sorted(each.name for each in stages.values() if issubclass(each.output, kind))
    if name in known:
        return stages[name]
    if name in NOT_LOADED and name not in stages:
        raise RecipeError(f"{where} = {name!r}: {NOT_LOADED[name]}")
    listed = ", ".join([*also, *known])
    what = f"{where} = {name!r}: there is no such stage that makes {kind.kind.replace('_', ' ')}"
    raise RecipeError(f"{what}{did_you_mean(name, [*also, *known])}; there are: {listed}")


def with_others(stages: Mapping[str, Stage], chain: Chain) -> Chain:
    """Return a chain that runs the stages of `[chain] also` at its end.

    They take what the chain has made by the names of their parameters: those by which its own stages take it, or its kind.
    """

    def walk(recipe: Recipe, step: Step, sources: Sources) -> Any:
        artifacts: dict[str, Artifact | None] = {}

        def noting(stage: Stage, /, *inputs: Any, **more: Any) -> Any:
            artifacts.update(zip(stage.inputs, inputs, strict=True))
            artifacts[stage.output.kind] = step(stage, *inputs, **more)
            return artifacts[stage.output.kind]

        outcome = chain(recipe, noting, sources)
        for name in recipe.chain.also:
            refuse_unknown_stage(name, stages)
            stage = stages[name]
            if unknown := set(stage.inputs) - artifacts.keys():
                raise RecipeError(
                    f"[chain] also: {name} takes {', '.join(sorted(unknown))}, which this chain does not make; it makes "
                    f"{', '.join(sorted(artifacts))}"
                )
            noting(stage, *(artifacts[input] for input in stage.inputs))
        return outcome

    return walk


def _problem(value: Any, name: str) -> str:
    is_that = isinstance(value, Stage) and value.name == name
    return "" if is_that else f"a {type(value).__name__}; a stage of that name was wanted"
