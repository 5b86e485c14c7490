"""Stages of other packages, by entry points `sevila.stages`, as a chain's backbone or scorer, or appended to the chain."""

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

NAMED_WEIGHTS = "weights"  # the input for the weights that the stage's config key of the same name names
Chain = Callable[[Recipe, Step, Sources], Any]


def of_others(built_in: Mapping[str, Stage]) -> dict[str, Stage]:
    """Return other packages' stages by name; warn of those that cannot be loaded or share a name, and omit them."""
    stages: dict[str, Stage] = {}
    registry = Registry[Stage]("stage", "sevila.stages", lambda: built_in, _problem)
    for name in registry.names_of_others():
        try:
            stages[name] = registry.named(name)
        except SevilaError as error:
            logging.getLogger("sevila").warning("%s", error)
            NOT_LOADED[name] = str(error)
    return stages


def backbone_stage(stages: Mapping[str, Stage], recipe: Recipe) -> Stage:
    """Return the stage that outputs the recipe's backbone; raise `RecipeError` if there is no such stage."""
    name = requirements.backbone_stage_name(recipe)
    return _stage_with_output(stages, Backbone, name, "[chain] backbone", ["imported", "trained"])


def scorer_stage(stages: Mapping[str, Stage], kind: type[Artifact], name: str) -> Stage:
    """Return the stage of this name that outputs scores, artifacts of `kind`, from what exists before scoring.

    Raises:
        RecipeError: there is no such stage, or it has other inputs.
    """
    stage = _stage_with_output(stages, kind, name, "[chain] scorer", ["localizer", "imported", "clip", "itm"])
    known = (*SplitArtifacts._fields, NAMED_WEIGHTS)
    if unknown := set(stage.inputs) - {*known}:
        raise RecipeError(
            f"[chain] scorer: {name} takes {', '.join(sorted(unknown))}; expected inputs of {', '.join(known)}"
        )
    return stage


def _stage_with_output(
    stages: Mapping[str, Stage], kind: type[Artifact], name: str, where: str, also: list[str]
) -> Stage:
    known = sorted(stage.name for stage in stages.values() if issubclass(stage.output, kind))
    if name in known:
        return stages[name]
    if name in NOT_LOADED and name not in stages:
        raise RecipeError(f"{where} = {name!r}: {NOT_LOADED[name]}")
    names = [*also, *known]
    problem = f"{where} = {name!r}: there is no such stage that makes {kind.kind.replace('_', ' ')}"
    raise RecipeError(f"{problem}{did_you_mean(name, names)}; there are: {', '.join(names)}")


def with_appended(stages: Mapping[str, Stage], chain: Chain) -> Chain:
    """Return a chain that runs the stages of `[chain] also` at its end.

    Their inputs are the chain's artifacts, by parameter name: the name of an input of the chain's stages, or the kind.
    """

    def extended(recipe: Recipe, step: Step, sources: Sources) -> Any:
        artifacts: dict[str, Artifact | None] = {}

        def recording_step(stage: Stage, /, *inputs: Any, **more: Any) -> Any:
            artifacts.update(zip(stage.inputs, inputs, strict=True))
            artifacts[stage.output.kind] = step(stage, *inputs, **more)
            return artifacts[stage.output.kind]

        outcome = chain(recipe, recording_step, sources)
        for name in recipe.chain.also:
            refuse_unknown_stage(name, stages)
            stage = stages[name]
            if unknown := set(stage.inputs) - artifacts.keys():
                raise RecipeError(
                    f"[chain] also: {name} takes {', '.join(sorted(unknown))}, which this chain does not make; it makes "
                    f"{', '.join(sorted(artifacts))}"
                )
            recording_step(stage, *(artifacts[input] for input in stage.inputs))
        return outcome

    return extended


def _problem(value: Any, name: str) -> str:
    is_valid = isinstance(value, Stage) and value.name == name
    return "" if is_valid else f"a {type(value).__name__}; expected a stage of that name"
