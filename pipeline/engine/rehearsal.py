"""Rehearsal of a chain: which steps follow those that are done, without reading or building anything."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

from cache.store import Store
from pipeline.engine.progress import quiet
from pipeline.engine.recipe import Recipe
from pipeline.engine.sources import AnnotationFiles, Sources, VideoFiles
from pipeline.engine.stage import Artifact, Config, Stage
from pipeline.engine.weights import Weights

NOT_YET = "is only rehearsed"


class RehearsedStep(NamedTuple):
    """A step of a chain; its artifact has an id if those of its inputs are known."""

    stage: Stage
    config: Config
    inputs: Sequence[Any]
    artifact: Artifact


class _NoSources:
    """`Sources` without content."""

    def annotations(self, *named: Any) -> AnnotationFiles:
        return AnnotationFiles(None, NOT_YET)

    def videos(self, name: str, questions: Any) -> VideoFiles:
        return VideoFiles(None, NOT_YET)

    def scores(self, name: str) -> AnnotationFiles:
        return AnnotationFiles(None, NOT_YET)

    def weights(self, name: str, *files: Any) -> Weights:
        return Weights(None, NOT_YET)

    def check(self, *names: Any) -> None:
        return None


def rehearsed(
    recipe: Recipe, store: Store, chain: Callable[..., Any], first: Sequence[Artifact]
) -> list[RehearsedStep]:
    """Return all steps of a chain, given the artifacts of the first ones; none if these do not determine the others."""
    steps: list[RehearsedStep] = []

    def step(stage: Stage, /, *inputs: Any, setting: str = "", **changes: Any) -> Any:
        config = recipe.config(stage, **changes)
        known = first[len(steps)] if len(steps) < len(first) else None
        artifact = known or stage.output(store, stage.artifact_id(config, inputs), NOT_YET)
        steps.append(RehearsedStep(stage, config, inputs, artifact))
        return artifact

    with quiet(logging.CRITICAL):  # the chain logs the same messages when it runs
        try:
            chain(recipe, step, cast(Sources, _NoSources()))
        except Exception:  # only progress and looking ahead depend on it
            return []
    return steps
