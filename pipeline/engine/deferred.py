"""Walking a chain first and making later: of all that it would make, only what somebody asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from cache.errors import MissingSourceError
from pipeline.engine.recipe import Recipe
from pipeline.engine.stage import Artifact, Config, RunContext, Stage
from pipeline.engine.steps import Step

Changes = Mapping[str, Mapping[str, Any]]  # config keys by stage
OF_TRAINING = "training split"  # how the settings of steps on what is trained on end (stages/chain.py)


class DeferredStep(NamedTuple):
    """A step of the chain that may be made later."""

    stage: Stage
    config: Config
    inputs: tuple[Any, ...]
    artifact: Artifact
    setting: str
    make: Callable[[], Artifact]


class Deferred:
    """A chain's step that makes only what its course depends on, lists of questions; `make` makes what an artifact needs.

    Args:
        step: makes a step, of the same recipe.
        evaluated: config keys for the steps on the evaluated split, over what recipe and chain say.
    """

    def __init__(self, recipe: Recipe, run: RunContext, step: Step, evaluated: Changes) -> None:
        # By stage and setting: taken instead of what the step would make.
        self.given: dict[tuple[str, str], Artifact] = {}
        self._recipe, self._store, self._step, self._evaluated = recipe, run.store, step, evaluated
        self._steps: dict[int, DeferredStep] = {}  # by the handle that the step returned
        self._stale: dict[str, str] = {}  # why an artifact is stale, as far as it was asked

    def __call__(self, stage: Stage, /, *inputs: Any, setting: str = "", **changes: Any) -> Any:
        """Return a handle on the artifact of this step."""
        if (stage.name, setting) in self.given:
            return self.given[stage.name, setting]
        if not setting.endswith(OF_TRAINING):
            changes |= self._evaluated.get(stage.name, {})
        cfg = self._recipe.config(stage, **changes)
        id = stage.artifact_id(cfg, inputs)
        problem = next((value.problem for value in inputs if value is not None and value.problem), "")

        make = partial(self._step, stage, *inputs, setting=setting, **changes)
        is_here = self._is_here(id)
        if stage.plan_needs_rows and id is not None and (is_here or not problem):
            artifact: Artifact = make()
        else:
            artifact = stage.output(self._store, id, "" if is_here else problem)
        self._steps[id_of(artifact)] = DeferredStep(stage, cfg, inputs, artifact, setting, make)
        return artifact

    @property
    def steps(self) -> list[DeferredStep]:
        """All steps of the chain, in its order."""
        return list(self._steps.values())

    def step_of(self, stage: str, setting: str) -> DeferredStep:
        """Return the step of this stage and setting; raises KeyError."""
        for step in self.steps:
            if (step.stage.name, step.setting) == (stage, setting):
                return step
        raise KeyError(f"{stage}, {setting!r}")

    def needed(self, artifact: Artifact, only_left: bool = False) -> list[DeferredStep]:
        """Return the steps behind an artifact, its own at the end; `only_left`: without those that the store holds."""
        steps: dict[int, DeferredStep] = {}
        self._collect(artifact, only_left, steps)
        return list(steps.values())

    def missing(self, artifact: Artifact) -> list[Any]:
        """Return the sources from outside without which the artifact cannot be made here."""
        sources = [value for step in self.needed(artifact, only_left=True) for value in step.inputs]
        lacking = {
            value.source: value for value in sources if not isinstance(value, Artifact) and value and value.problem
        }
        return list(lacking.values())

    def make(self, artifact: Artifact) -> None:
        """Make what is left to make of an artifact and of what it needs.

        Raises:
            MissingSourceError: something from outside is not on this machine.
        """
        lacking = self.missing(artifact)
        if lacking:
            raise MissingSourceError("; ".join(value.problem for value in lacking))
        for step in self.needed(artifact, only_left=True):
            step.make()
            step.artifact.problem = ""
        self._stale.clear()

    def _is_here(self, id: str | None) -> bool:
        return id is not None and self._store.exists(id) and not self._store.why_stale(id, self._stale)

    def _collect(self, artifact: Artifact, only_left: bool, into: dict[int, DeferredStep]) -> None:
        step = self._steps.get(id_of(artifact))
        if step is None or id_of(artifact) in into:
            return
        if only_left and self._is_here(artifact.id):
            return
        for value in step.inputs:
            if isinstance(value, Artifact):
                self._collect(value, only_left, into)
        into[id_of(artifact)] = step


id_of = id  # of a handle in this process; an artifact's own `id` is another thing
