"""Running a chain lazily: record its steps first, and build only the requested artifacts later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from cache.errors import MissingSourceError
from pipeline.engine.ahead import ahead_of
from pipeline.engine.recipe import Recipe
from pipeline.engine.stage import Artifact, Config, RunContext, Stage
from pipeline.engine.steps import Step

Changes = Mapping[str, Mapping[str, Any]]  # config keys by stage
OF_TRAINING = "training split"  # suffix of the settings of steps on the training split (stages/chain.py)


class DeferredStep(NamedTuple):
    """A step of the chain that may be built later."""

    stage: Stage
    config: Config
    inputs: tuple[Any, ...]
    artifact: Artifact
    setting: str
    make: Callable[[], Artifact]


class Deferred:
    """A step that builds only what the chain's course depends on, lists of questions; `make` builds an artifact's closure.

    Args:
        step: builds a step, of the same recipe.
        evaluated: config keys of the steps on the evaluated split, which override recipe and chain.
    """

    def __init__(self, recipe: Recipe, run: RunContext, step: Step, evaluated: Changes) -> None:
        # Artifacts that replace those of steps, by stage and setting.
        self.replacements: dict[tuple[str, str], Artifact] = {}
        self._recipe, self._run, self._step, self._evaluated = recipe, run, step, evaluated
        self._steps: dict[int, DeferredStep] = {}  # by the handle that the step returned
        self._stale: dict[str, str] = {}  # cache: why an artifact is stale, by id

    def __call__(self, stage: Stage, /, *inputs: Any, setting: str = "", **changes: Any) -> Any:
        """Return a handle of the artifact of this step."""
        if (stage.name, setting) in self.replacements:
            return self.replacements[stage.name, setting]
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
            artifact = stage.output(self._run.store, id, "" if is_here else problem)
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
        """Return the steps that an artifact depends on, and its own last; `only_left`: only those not in the store."""
        steps: dict[int, DeferredStep] = {}
        self._collect(artifact, only_left, steps)
        return [step for step in self.steps if id_of(step.artifact) in steps]

    def missing(self, artifact: Artifact) -> list[Any]:
        """Return the missing sources that building the artifact needs."""
        inputs = [value for step in self.needed(artifact, only_left=True) for value in step.inputs]
        missing = {
            value.source: value for value in inputs if not isinstance(value, Artifact) and value and value.problem
        }
        return list(missing.values())

    def make(self, artifact: Artifact) -> None:
        """Build an artifact and its dependencies, as far as the store lacks them.

        Raises:
            MissingSourceError: a source is not on this machine.
        """
        missing = self.missing(artifact)
        if missing:
            raise MissingSourceError("; ".join(value.problem for value in missing))
        steps = self.needed(artifact, only_left=True)
        for n_begun, step in enumerate(steps, 1):
            later = ((each.stage, each.config, each.inputs) for each in steps[n_begun:])
            with ahead_of(step.artifact, step.stage.draft(step.config, step.inputs), later, self._run):
                step.make()
            step.artifact.problem = ""
        self._stale.clear()

    def _is_here(self, id: str | None) -> bool:
        return id is not None and self._run.store.exists(id) and not self._run.store.why_stale(id, self._stale)

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


id_of = id  # identity of a handle as an object, not the artifact's id
