"""The ways to walk a chain: run it, run one stage of it, or only say what would be run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from cache.errors import SevilaError
from pipeline.build import build
from pipeline.recipe import Recipe
from pipeline.stage import Artifact, RunContext, Stage


class Run:
    """Builds every step that is not in the store."""

    def __init__(self, recipe: Recipe, run: RunContext) -> None:
        self.made: list[Artifact] = []
        self._recipe = recipe
        self._run = run

    def __call__(self, stage: Stage, *inputs: Any) -> Artifact:
        """Return the artifact of this step."""
        self.made.append(build(stage, self._recipe.config(stage), self._run, inputs))
        return self.made[-1]


@dataclass(frozen=True)
class PlannedStep:
    """One line of a plan: `status` is exists, build or blocked; `why` is for people."""

    stage: str
    id: str | None
    status: str
    why: str


class Plan:
    """Runs nothing; notes for each step whether its artifact exists and why it would be built."""

    def __init__(self, recipe: Recipe, run: RunContext) -> None:
        self.steps: list[PlannedStep] = []
        self._recipe = recipe
        self._run = run

    def __call__(self, stage: Stage, *inputs: Any) -> Artifact:
        """Return a handle that has an id as far as one can be known."""
        id = stage.artifact_id(self._recipe.config(stage), inputs)
        if id is not None and self._run.store.exists(id):
            self.steps.append(PlannedStep(stage.name, id, "exists", ""))
        else:
            self.steps.append(self._missing(stage, id, inputs))
        return stage.output(self._run.store, id, f"waits for {stage.name}")

    def _missing(self, stage: Stage, id: str | None, inputs: Sequence[Any]) -> PlannedStep:
        unknown = [value for value in inputs if value is not None and value.id is None]
        missing = [value for value in unknown if not isinstance(value, Artifact)]
        if missing:
            # Which videos are meant is only known from the questions: that is an order of work, not a fault.
            status = "build" if missing[0].problem.startswith("waits") else "blocked"
            return PlannedStep(stage.name, id, status, missing[0].problem)
        if unknown:
            return PlannedStep(stage.name, id, "build", unknown[0].problem)
        if id is not None and self._run.store.partial(id).exists():
            return PlannedStep(stage.name, id, "build", "was begun; finished shards are kept")
        built = [
            value for value in inputs if isinstance(value, Artifact) and not self._run.store.exists(value.id or "")
        ]
        if built:
            return PlannedStep(stage.name, id, "build", f"its input {built[0].kind} is not built yet")
        others = sum(name.startswith(f"{stage.name}-v") for name in self._run.store)
        why = f"{others} made before, with another config, input or version" if others else "never made before"
        return PlannedStep(stage.name, id, "build", why)


class _Reached(Exception):
    """The wanted stage is built; the rest of the chain is not walked."""


class RunOnly:
    """Builds one stage from what the store holds, and nothing else."""

    def __init__(self, name: str, recipe: Recipe, run: RunContext, again: bool) -> None:
        self.made: Artifact | None = None
        self._name = name
        self._recipe = recipe
        self._run = run
        self._again = again

    def walk(self, chain: Any, sources: Any) -> Artifact:
        """Walk a chain up to the wanted stage and return its artifact.

        Raises:
            SevilaError: an input is not in the store, or the chain does not have the stage.
        """
        try:
            chain(self._recipe, self, sources)
        except _Reached:
            assert self.made is not None
            return self.made
        raise SevilaError(f"the chain of recipe {self._recipe.name!r} does not use {self._name}")

    def __call__(self, stage: Stage, *inputs: Any) -> Artifact:
        """Return the artifact of this step, which must exist unless it is the wanted one."""
        cfg = self._recipe.config(stage)
        id = stage.artifact_id(cfg, inputs)
        if stage.name == self._name:
            with self._run.store.set_aside(id) if self._again and id is not None else nullcontext():
                self.made = build(stage, cfg, self._run, inputs)
            raise _Reached
        if id is None or not self._run.store.exists(id):
            raise SevilaError(
                f"{self._name} needs {stage.name}, which is not in {self._run.store.root}; "
                f"run `sevila stage {stage.name} ...` or `sevila run ...` with this recipe first"
            )
        return stage.output(self._run.store, id)
