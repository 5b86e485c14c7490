"""How many steps a chain has, counted before they are made."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

from cache.store import Store
from pipeline.engine.progress import quiet
from pipeline.engine.recipe import Recipe
from pipeline.engine.sources import AnnotationFiles, Sources, VideoFiles
from pipeline.engine.stage import Artifact, Stage
from pipeline.engine.weights import Weights

NOT_YET = "is only counted"


class _NoSources:
    """Stands for all that lies outside, so that counting reads nothing of it."""

    def annotations(self, *named: Any) -> AnnotationFiles:
        return AnnotationFiles(None, NOT_YET)

    def videos(self, name: str, questions: Any) -> VideoFiles:
        return VideoFiles(None, NOT_YET)

    def scores(self, name: str) -> AnnotationFiles:
        return AnnotationFiles(None, NOT_YET)

    def weights(self, name: str, *files: Any) -> Weights:
        return Weights(None, NOT_YET)

    def check(self, *wanted: Any) -> None:
        return None


def count_steps(recipe: Recipe, store: Store, chain: Callable[..., Any], done: Sequence[Artifact]) -> int:
    """Return how many steps a chain has, of which the first, `done`, are there; 0 if that cannot be said.

    Which steps there are depends on the questions: whether their true moments are known. So it is to be counted when these are
    listed.
    """
    n_steps, replayed = 0, iter(done)

    def count(stage: Stage, /, *inputs: Any, setting: str = "", **changes: Any) -> Any:
        nonlocal n_steps
        n_steps += 1
        return next(replayed, None) or stage.output(store, None, NOT_YET)

    with quiet(logging.CRITICAL):  # the chain itself is to say it
        try:
            chain(recipe, count, cast(Sources, _NoSources()))
        except Exception:  # a number that people like to see is no reason to end a run
            return 0
    return n_steps
