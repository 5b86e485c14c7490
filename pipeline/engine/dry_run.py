"""Planning a chain without running it: what would be built, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from cache.lineage import own_differences
from cache.record import DROPPED, Record
from cache.store import Store
from pipeline.engine.build import build
from pipeline.engine.progress import quiet
from pipeline.engine.recipe import Recipe
from pipeline.engine.sources import Sources
from pipeline.engine.stage import Artifact, RunContext, Stage
from pipeline.engine.steps import setting_of


@dataclass(frozen=True)
class PlannedStep:
    """One line of a plan: `status` is exists, build, or blocked if a source it needs is not on this machine.

    `setting` distinguishes the chain's steps of one stage; empty if there is only one.
    """

    stage: str
    id: str | None
    status: Literal["exists", "build", "blocked"]
    why: str
    setting: str


class DryRun:
    """A step that only records whether its artifact exists, and why it would be built.

    Only lists of questions are built, in a temporary store: the ids of all later steps depend on the videos in them.
    """

    def __init__(self, recipe: Recipe, run: RunContext) -> None:
        self.steps: list[PlannedStep] = []
        # Of all steps by artifact id, with the fields that are known before a build.
        self.records: dict[str, Record] = {}
        self.sources: dict[str, Any] = {}  # by id
        self._recipe = recipe
        self._run = run
        self._scratch = run
        self._stale: dict[str, str] = {}

    def walk(self, chain: Callable[..., Any], sources: Sources) -> list[PlannedStep]:
        """Run through a chain and return its plan, step by step."""
        with TemporaryDirectory() as folder:
            self._scratch = replace(self._run, store=Store(Path(folder)))
            chain(self._recipe, self, sources)
        return self.steps

    def __call__(self, stage: Stage, /, *inputs: Any, setting: str = "", **changes: Any) -> Any:
        """Return a handle of the step's artifact, with its id if that is known without a build."""
        cfg = self._recipe.config(stage, **changes)
        id = stage.artifact_id(cfg, inputs)
        self.sources |= {value.id: value for value in inputs if value is not None and not isinstance(value, Artifact)}
        if id is not None:
            self.records[id] = stage.draft(cfg, inputs)
        status, why = self._status(stage, id, inputs)
        self.steps.append(PlannedStep(stage.name, id, status, why, setting_of(changes, setting)))
        if stage.plan_needs_rows and status == "build":
            with quiet():  # its log would say "made", but only the temporary store has the artifact
                return build(stage, cfg, self._scratch, inputs)
        return stage.output(self._run.store, id, f"waits for {stage.name}" if status == "blocked" else "")

    def _status(
        self, stage: Stage, id: str | None, inputs: Sequence[Any]
    ) -> tuple[Literal["exists", "build", "blocked"], str]:
        store = self._run.store
        stale = store.why_stale(id, self._stale) if id is not None and store.exists(id) else ""
        if id is not None and store.exists(id) and not stale:
            return "exists", ""
        problems = [value.problem for value in inputs if value is not None and value.problem]
        if problems or id is None:
            return "blocked", problems[0]
        if stale:
            return "build", f"is stale: {stale}"
        if (store.partial(id) / DROPPED).exists():
            return "build", "was dropped as damaged; its undamaged parts are kept"
        if store.partial(id).exists():
            return (
                "build",
                "was begun; it goes on from its last state" if stage.resumes else "was begun; finished shards are kept",
            )
        built = [value.kind for value in inputs if isinstance(value, Artifact) and not store.is_current(value.id or "")]
        if built:
            return "build", f"its input {built[0]} is not built yet"
        return "build", _difference(self.records[id], store)


def _difference(planned: Record, store: Store) -> str:
    """Describe how a step differs from the stage's nearest existing artifact: the newest with the fewest differences."""
    differences = [_differences(record, planned) for record in store.of_stage(planned.stage)]  # newest first
    if not differences:
        return "never made before"
    fewest = min(differences, key=len)
    return f"unlike the nearest one: {', '.join(fewest)}"


def _differences(record: Record, planned: Record) -> list[str]:
    inputs = [f"another {name}" for name, id in planned.inputs.items() if id != record.inputs.get(name)]
    return own_differences(record, planned) + inputs
