"""The ways to run a chain: all of it, one stage of it, or the pieces of one artifact."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import count
from typing import Any, NamedTuple, Protocol

from cache.errors import InputChangedError, MissingSourceError, SevilaError
from cache.record import Record
from cache.store import Store
from pipeline.engine.ahead import SHARD_POLL_SECONDS, LookAhead, StepAhead, ahead_of, in_a_thread, look_ahead
from pipeline.engine.build import TRIES, Make, build, build_missing, rebuild
from pipeline.engine.progress import at_step
from pipeline.engine.recipe import Recipe
from pipeline.engine.rehearsal import rehearsed
from pipeline.engine.sources import Sources
from pipeline.engine.stage import Artifact, Config, Produced, RunContext, Stage

log = logging.getLogger("sevila")

# Seconds without another finished shard after which a worker no longer waits for an unfinished input: if others want the worker,
# and in any case (whoever makes it may be dead).
PATIENT_SECONDS, GIVE_UP_SECONDS = 30.0, 900.0


class Step(Protocol):
    """The callable with which a chain runs each of its steps."""

    def __call__(self, stage: Stage[Produced], /, *inputs: Any, setting: str = "", **changes: Any) -> Produced:
        """Return the artifact of a step.

        Args:
            setting: name that distinguishes several steps of a stage.
            changes: config keys with which the chain overrides the recipe.
        """


PinStep = Callable[[str | None, str, str], None]  # (id, stage, setting) of a step, called before it runs


class _DoneStep(NamedTuple):
    stage: Stage
    config: Config
    inputs: Sequence[Any]
    artifact: Artifact
    setting: str


class Run:
    """Builds every step that is not in the store, and pins all of them (see cache/names.py)."""

    def __init__(
        self,
        recipe: Recipe,
        run: RunContext,
        pin: PinStep,
        make: Make = build,
        chain: Callable[..., Any] | None = None,
        look_ahead: LookAhead = in_a_thread,
    ) -> None:
        """Args: `chain` is the chain that this runs, to count its steps, and to begin on the next one with `look_ahead`."""
        self._done: list[_DoneStep | Run] = []
        self._before: tuple[_DoneStep, ...] = ()  # steps before this branch
        self._recipe = recipe
        self._run = run
        self._pin = pin
        self._make = make
        self._chain = chain
        self._look_ahead = look_ahead
        self._total = 0
        self._numbers = count(1)

    def branch(self) -> Run:
        """Return a `Run` for a branch of the chain; `artifacts` lists its steps at the position where it starts."""
        branch = Run(self._recipe, self._run, self._pin, self._make)
        branch._before = (*self._before, *self._steps())
        branch._total, branch._numbers = self._total, self._numbers
        self._done.append(branch)
        return branch

    @property
    def artifacts(self) -> list[Artifact]:
        """The artifacts of all steps, in the chain's order."""
        return [step.artifact for step in self._steps()]

    @property
    def settings(self) -> list[str]:
        """The settings of the steps of `artifacts`, in the same order."""
        return [step.setting for step in self._steps()]

    def _steps(self) -> list[_DoneStep]:
        groups = [entry._steps() if isinstance(entry, Run) else [entry] for entry in list(self._done)]
        return [step for group in groups for step in group]

    def pin_in_order(self) -> None:
        """Pin all steps again in the chain's order, which differs from the order in which parallel branches ran."""
        for step in self._steps():
            self._pin(step.artifact.id, step.stage.name, step.setting)

    def __call__(self, stage: Stage, /, *inputs: Any, setting: str = "", **changes: Any) -> Any:
        """Return the artifact of this step, as `Step` does."""
        cfg, label = self._recipe.config(stage, **changes), setting_of(changes, setting)
        self._pin(stage.artifact_id(cfg, inputs), stage.name, label)
        with at_step(next(self._numbers), self._count(), label), self._ahead_of(stage, cfg, inputs):
            artifact = self._make_step(stage, cfg, inputs)
        self._done.append(_DoneStep(stage, cfg, inputs, artifact, label))
        return artifact

    def _count(self) -> int:
        """Return the number of the chain's steps; 0 until questions are listed, on which it depends."""
        last = self._done[-1] if self._done else None
        if self._chain is not None and isinstance(last, _DoneStep) and last.stage.plan_needs_rows:
            self._total = len(rehearsed(self._recipe, self._run.store, self._chain, self.artifacts))
        return self._total

    def _ahead_of(self, stage: Stage, cfg: Config, inputs: Sequence[Any]) -> AbstractContextManager[None]:
        """Return a context in which a later step begins on finished shards of this one, if the chain has such a step."""
        store, id = self._run.store, stage.artifact_id(cfg, inputs)
        if self._chain is None or stage.plan is None or stage.gpu or id is None or store.is_current(id):
            return nullcontext()
        awaited = stage.output(store, id)
        steps = rehearsed(self._recipe, store, self._chain, [*self.artifacts, awaited])
        later = ((step.stage, step.config, step.inputs) for step in steps)
        return ahead_of(awaited, stage.draft(cfg, inputs), later, self._run, self._look_ahead)

    def _make_step(self, stage: Stage, cfg: Config, inputs: Sequence[Any]) -> Artifact:
        for n_retries_left in range(TRIES - 1, -1, -1):
            try:
                return self._make(stage, cfg, self._run, inputs)
            except InputChangedError as error:
                if not n_retries_left:
                    raise
                log.warning("%s; rebuilding its inputs", error)
                for step in (*self._before, *self._steps()):
                    self._make(step.stage, step.config, self._run, step.inputs)
        raise AssertionError("returned or raised")


def setting_of(changes: Mapping[str, Any], setting: str = "") -> str:
    """Return the name of a step's setting: `setting` if not empty, else the changes, as `method='uniform', k=4`."""
    return setting or ", ".join(f"{key}={value!r}" for key, value in changes.items())


class _Reached(Exception):
    """Raised to leave the chain once the target is built and does not occur again."""


class RunOnly:
    """Builds one stage only, at each occurrence in the chain whose inputs are in the store."""

    def __init__(
        self, name: str, recipe: Recipe, run: RunContext, again: bool, pin: PinStep, make: Make = build
    ) -> None:
        self.artifacts: list[Artifact] = []
        self.settings: list[str] = []  # of the steps of `artifacts`
        self.waiting: list[str] = []  # why the other occurrences could not be built
        self._name = name
        self._recipe = recipe
        self._run = run
        self._again = again
        self._pin = pin
        self._make = make
        self._occurs_once = recipe.chain.kind == "forward"

    def walk(self, chain: Callable[..., Any], sources: Sources) -> list[Artifact]:
        """Run through a chain, build the stage wherever its inputs exist, and return the artifacts in the chain's order.

        Raises:
            SevilaError: no occurrence has its inputs in the store, or the chain does not have the stage.
        """
        with suppress(_Reached):
            chain(self._recipe, self, sources)
        if not self.artifacts and not self.waiting:
            raise SevilaError(f"the chain of recipe {self._recipe.name!r} does not use {self._name}")
        if not self.artifacts:
            reasons = list(dict.fromkeys(self.waiting))
            raise MissingSourceError(
                reasons[0] if len(reasons) == 1 else "no occurrence can be built: " + "; ".join(reasons)
            )
        for waiting in self.waiting:
            log.warning("not built: %s", waiting)
        return self.artifacts

    def __call__(self, stage: Stage, /, *inputs: Any, setting: str = "", **changes: Any) -> Any:
        """Return the artifact of this step, or a handle with a `problem` if it is not in the store."""
        cfg, store = self._recipe.config(stage, **changes), self._run.store
        id = stage.artifact_id(cfg, inputs)
        self._pin(id, stage.name, setting_of(changes, setting))
        if stage.name == self._name:
            return self._build(stage, cfg, inputs, id, setting_of(changes, setting))
        return stored(stage, id, inputs, store)

    def _build(self, stage: Stage, cfg: Config, inputs: Sequence[Any], id: str | None, setting: str) -> Artifact:
        store = self._run.store
        done = next((artifact for artifact in self.artifacts if artifact.id == id), None)
        if done is not None:  # two settings share the step
            return done
        try:
            if self._again and id is not None:
                artifact = rebuild(stage, cfg, self._run, inputs, self._make)
            else:
                artifact = self._make(stage, cfg, self._run, inputs)
        except MissingSourceError as error:
            self.waiting.append(f"{error} ({setting})" if setting else str(error))
            artifact = stage.output(store, id, str(error))
        else:
            self.artifacts.append(artifact)
            self.settings.append(setting)
        if self._occurs_once:
            raise _Reached
        return artifact


class RunPieces:
    """Builds the missing pieces of one artifact of a chain that no other process has locked, and nothing else."""

    def __init__(
        self, artifact: str, recipe: Recipe, run: RunContext, is_wanted_elsewhere: Callable[[], bool] = lambda: False
    ) -> None:
        """Args: `is_wanted_elsewhere` returns whether others wait for this process, which then waits for no input."""
        self._artifact = artifact
        self._recipe = recipe
        self._run = run
        self._is_wanted_elsewhere = is_wanted_elsewhere
        self._gave_up = False
        self._drafts: dict[str, Record] = {}  # of the steps before the artifact, by id

    def walk(self, chain: Callable[..., Any], sources: Sources) -> bool:
        """Run through a chain up to the artifact, and build its pieces; return False if it gave up waiting for an input.

        Raises:
            SevilaError: the chain does not reach this artifact with the content of this store.
        """
        try:
            chain(self._recipe, self, sources)
        except _Reached:
            return not self._gave_up
        raise SevilaError(
            f"the chain of recipe {self._recipe.name!r} does not come to {self._artifact} here: another recipe, other data or "
            f"weights than where it was planned, or another store than {self._run.store.root}"
        )

    def __call__(self, stage: Stage, /, *inputs: Any, setting: str = "", **changes: Any) -> Any:
        """Return a handle of this step's artifact; for the target, build the pieces and leave the chain."""
        cfg = self._recipe.config(stage, **changes)
        id = stage.artifact_id(cfg, inputs)
        if id == self._artifact:
            published = self._published(stage, cfg, inputs)
            self._gave_up = published is None
            if published is not None:
                build_missing(stage, cfg, self._run, published)
            raise _Reached
        if id is not None:
            self._drafts[id] = stage.draft(cfg, inputs)
        return stored(stage, id, inputs, self._run.store)

    def _published(self, stage: Stage, cfg: Config, inputs: Sequence[Any]) -> Sequence[Any] | None:
        """Return the inputs once all are published, after working on finished shards; None if that takes too long."""
        awaited = inputs[stage.inputs.index(stage.begins_on)] if stage.begins_on else None
        if awaited is None or not awaited.problem or awaited.id not in self._drafts:
            return inputs
        step, last_shard = StepAhead(stage, cfg, inputs, self._drafts[awaited.id]), time.monotonic()
        for is_new in look_ahead(step, self._run):
            if self._run.store.is_current(awaited.id):
                return step.reading(type(awaited)(self._run.store, awaited.id)).inputs
            last_shard = time.monotonic() if is_new else last_shard
            idle_seconds = time.monotonic() - last_shard
            if idle_seconds > GIVE_UP_SECONDS or (idle_seconds > PATIENT_SECONDS and self._is_wanted_elsewhere()):
                return None
            time.sleep(0 if is_new else SHARD_POLL_SECONDS)
        return None


def stored(stage: Stage, id: str | None, inputs: Sequence[Any], store: Store) -> Artifact:
    """Return an artifact of the store, or a handle with a `problem` if it is missing or stale."""
    stale = store.why_stale(id) if id is not None and store.exists(id) else ""
    if id is not None and store.exists(id) and not stale:
        return stage.output(store, id)
    problems = [value.problem for value in inputs if value is not None and value.problem]
    if stale and not problems:
        return stage.output(store, id, f"{id} is stale: {stale}; `sevila run ...` rebuilds it")
    not_run = f"{stage.name} has not been run on this: `sevila stage {stage.name} ...` or `sevila run ...` first"
    return stage.output(store, id, problems[0] if problems else not_run)
