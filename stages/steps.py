"""The ways to walk a chain: run it, run one stage of it, or only say what would be run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from cache.errors import SevilaError
from cache.store import Store
from pipeline.build import build
from pipeline.recipe import Recipe
from pipeline.sources import Sources
from pipeline.stage import Artifact, Config, RunContext, Stage
from stages.list_questions import Questions

log = logging.getLogger("sevila")


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
    """One line of a plan: `status` is exists, build, or blocked when something it needs is not on this machine."""

    stage: str
    id: str | None
    status: Literal["exists", "build", "blocked"]
    why: str


class Plan:
    """Runs nothing; notes for each step whether its artifact exists and why it would be built.

    Only the questions are listed, to a temporary store: the identity of everything after them depends on which videos they
    ask about.
    """

    def __init__(self, recipe: Recipe, run: RunContext) -> None:
        self.steps: list[PlannedStep] = []
        self._recipe = recipe
        self._run = run
        self._scratch = run

    def walk(self, chain: Callable[..., Any], sources: Sources) -> list[PlannedStep]:
        """Walk a chain and return what it would do, step by step."""
        with TemporaryDirectory() as folder:
            self._scratch = replace(self._run, store=Store(Path(folder)))
            chain(self._recipe, self, sources)
        return self.steps

    def __call__(self, stage: Stage, *inputs: Any) -> Artifact:
        """Return a handle that has an id as far as one can be known."""
        cfg = self._recipe.config(stage)
        id = stage.artifact_id(cfg, inputs)
        status, why = self._status(stage, id, inputs)
        self.steps.append(PlannedStep(stage.name, id, status, why))
        if stage.output is Questions and status == "build":
            with _quiet():  # "made ..." would not be true of the store
                return build(stage, cfg, self._scratch, inputs)
        return stage.output(self._run.store, id, f"waits for {stage.name}" if status == "blocked" else "")

    def _status(
        self, stage: Stage, id: str | None, inputs: Sequence[Any]
    ) -> tuple[Literal["exists", "build", "blocked"], str]:
        store = self._run.store
        if id is not None and store.exists(id):
            return "exists", ""
        problems = [value.problem for value in inputs if value is not None and value.problem]
        if problems or id is None:
            return "blocked", problems[0]
        if store.partial(id).exists():
            return (
                "build",
                "was begun; it goes on from its last state" if stage.resumes else "was begun; finished shards are kept",
            )
        built = [value.kind for value in inputs if isinstance(value, Artifact) and not store.exists(value.id or "")]
        if built:
            return "build", f"its input {built[0]} is not built yet"
        return "build", _difference(stage, self._recipe.config(stage), inputs, store)


@contextmanager
def _quiet() -> Iterator[None]:
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


def _content(made: Artifact, files: dict[str, Any]) -> dict[str, Any]:
    """Return the files but those of measured tables, which differ between equal runs."""
    return {name: file for name, file in files.items() if name.split(".")[0].split("/")[0] not in made.measured}


def _difference(stage: Stage, cfg: Config, inputs: Sequence[Any], store: Store) -> str:
    """Say what differs from the last artifact that this stage has made."""
    records = [store.record(name) for name in store if name.startswith(f"{stage.name}-v")]
    if not records:
        return "never made before"
    last = max(records, key=lambda record: record.finished)
    now = cfg.model_dump()
    found = [f"version {last.version} -> {stage.version}"] if last.version != stage.version else []
    keys = [key for key in now.keys() | last.config.keys() if now.get(key) != last.config.get(key)]
    found += [f"{key} {last.config.get(key)!r} -> {now.get(key)!r}" for key in sorted(keys)]
    ids = {name: value.id if value is not None else None for name, value in zip(stage.inputs, inputs, strict=True)}
    found += [f"another {name}" for name, id in ids.items() if id != last.inputs.get(name)]
    return f"unlike the last one: {', '.join(found)}"


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

    def walk(self, chain: Callable[..., Any], sources: Sources) -> Artifact:
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
        """Return the artifact of this step, or a handle that says what is missing if the store does not hold it."""
        cfg, store = self._recipe.config(stage), self._run.store
        id = stage.artifact_id(cfg, inputs)
        if stage.name == self._name:
            self.made = (
                self._rebuild(stage, cfg, inputs, id) if self._again and id else build(stage, cfg, self._run, inputs)
            )
            raise _Reached
        if id is not None and store.exists(id):
            return stage.output(store, id)
        problems = [value.problem for value in inputs if value is not None and value.problem]
        run_it = f"{stage.name} has not been run on this: `sevila stage {stage.name} ...` or `sevila run ...` first"
        return stage.output(store, id, problems[0] if problems else run_it)

    def _rebuild(self, stage: Stage, cfg: Config, inputs: Sequence[Any], id: str) -> Artifact:
        store = self._run.store
        before = store.record(id).files if store.exists(id) else {}
        with store.set_aside(id):
            made = build(stage, cfg, self._run, inputs)
        # The id promises its content to whatever was made from it: where that has changed, those are made anew.
        stale = store.made_from(id) if before and _content(made, before) != _content(made, made.record.files) else []
        for name in stale:
            store.remove(name)
        if stale:
            log.warning("%s: its content has changed, so what was made from it is removed: %s", id, ", ".join(stale))
        return made
