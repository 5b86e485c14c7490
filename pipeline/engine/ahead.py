"""Looking ahead: a stage that runs a model begins on the finished shards of an input that is still being made.

What it computes goes only to the pool, under the key of its content, where the stage finds it. Nothing is published ahead.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from cache.errors import CorruptArtifactError
from cache.notes import read_note
from cache.record import PLAN, PROGRESS, Record
from pipeline.engine.build import planned
from pipeline.engine.output import Shard, ShardedOutput
from pipeline.engine.pooled import PooledArtifact
from pipeline.engine.progress import shown_by
from pipeline.engine.stage import Artifact, Config, Plan, RunContext, Stage

log = logging.getLogger("sevila")

SHARD_POLL_SECONDS = 1.0  # interval at which finished shards are looked for


class StepAhead(NamedTuple):
    """A step of a chain whose input `stage.begins_on` is not published yet; its other inputs are.

    Attributes:
        draft: what is known of that input's record.
    """

    stage: Stage
    config: Config
    inputs: Sequence[Any]
    draft: Record

    @property
    def id(self) -> str:
        """The id of the step's artifact."""
        return str(self.stage.artifact_id(self.config, self.inputs))

    @property
    def awaited(self) -> PooledArtifact:
        """The input that is not published yet."""
        artifact: PooledArtifact = self.inputs[self.stage.inputs.index(self.stage.begins_on)]
        return artifact

    def reading(self, artifact: PooledArtifact) -> StepAhead:
        """Return the step with another artifact in place of the awaited one."""
        awaited = self.awaited
        return self._replace(inputs=[artifact if value is awaited else value for value in self.inputs])


# (step, how to run it) -> a context in which its models work on the shards that the block makes.
LookAhead = Callable[[StepAhead, RunContext], AbstractContextManager[None]]


@contextmanager
def in_a_thread(step: StepAhead, run: RunContext) -> Iterator[None]:
    """Look ahead in a thread of this process if it has a GPU: on a CPU, models would take the cores of the decoders."""
    if not overlaps(run):
        yield
        return
    is_over = threading.Event()

    def work() -> None:
        for is_new in look_ahead(step, run):
            if is_over.wait(0 if is_new else SHARD_POLL_SECONDS):
                return

    # A daemon thread: an interrupted process does not wait for it; the store stays consistent.
    thread = threading.Thread(target=copy_context().run, args=(work,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
    thread.join()


def ahead_of(
    awaited: Artifact,
    draft: Record,
    later: Iterable[tuple[Stage, Config, Sequence[Any]]],
    run: RunContext,
    look_ahead: LookAhead = in_a_thread,
) -> AbstractContextManager[None]:
    """Return a context in which one of the `later` steps begins on shards of an artifact that is made meanwhile, if one can.

    Args:
        draft: what is known of the artifact's record.
        later: stage, config and inputs of steps in their order.
    """
    for stage, config, inputs in later:
        is_ready = all(value is awaited or _is_ready(value, run) for value in inputs if value is not None)
        if stage.begins_on and is_ready and inputs[stage.inputs.index(stage.begins_on)] is awaited:
            step = StepAhead(stage, config, inputs, draft)
            return nullcontext() if run.store.is_current(step.id) else look_ahead(step, run)
    return nullcontext()


def _is_ready(value: Any, run: RunContext) -> bool:
    is_made = not isinstance(value, Artifact) or (value.id is not None and run.store.is_current(value.id))
    return is_made and not value.problem


def overlaps(run: RunContext) -> bool:
    """Return whether models of this process run beside decoders, and not on their cores."""
    return run.torch_device() != "cpu"


def look_ahead(step: StepAhead, run: RunContext) -> Iterator[bool]:
    """Compute what a step puts into the pool for each finished shard of its awaited input, and yield True after each.

    Yields False where there is no further shard yet. After an error there is none: the step itself meets the cause again.
    """
    seen: set[str] = set()
    is_able = True
    log.info("%s: begins on finished shards of its input", step.stage.name)
    with shown_by(lambda *progress: None):  # the bar of the step that makes the input stays alone
        while True:
            try:
                shard = next(_finished_shards(step, seen), None) if is_able else None
                if shard is not None:
                    _compute(step.reading(shard), run)
            except (FileNotFoundError, CorruptArtifactError) as error:  # published, or remade, meanwhile
                log.debug("%s: a shard of its input is gone: %s", step.stage.name, error)
                shard = None
            except Exception as error:
                log.warning("%s: waits for the whole input: %s", step.stage.name, error)
                is_able, shard = False, None
            yield shard is not None


def _compute(step: StepAhead, run: RunContext) -> None:
    out = _PoolOnly(run.store, step.id, step.stage, partial(_plan, step, run), only=())
    step.stage.function(step.config, run, *step.inputs, out=out)


def _plan(step: StepAhead, run: RunContext) -> Plan:
    """Return the plan for one shard of the input, with the settings of the artifact's own plan if that is stored."""
    plan: Plan = planned(step.stage, step.config, run, step.inputs)()
    with suppress(FileNotFoundError, CorruptArtifactError):
        plan = plan._replace(settings=read_note(run.store.partial(step.id) / PLAN)["settings"])
    return plan


def _finished_shards(step: StepAhead, seen: set[str]) -> Iterator[PooledArtifact]:
    """Yield each finished shard of the awaited input as an artifact of its own, except for `seen`; add it there."""
    store, kind = step.awaited.store, type(step.awaited)
    folder = store.partial(step.draft.id)
    for path in sorted((folder / PROGRESS).glob("[0-9]*.json")):
        if path.name not in seen:
            seen.add(path.name)
            note = read_note(path)
            if note["artifact"] == step.draft.id and note["pool"]:  # notes of earlier versions have no pool
                parts = {name: note[name] for name in ("files", "rows", "pool")}
                yield kind.of_shard(store, replace(step.draft, **parts), folder)


class _PoolOnly(ShardedOutput):
    """An output of which only the pool's arrays are kept."""

    def each_shard(self, work: Callable[[Shard], None]) -> None:
        """Do all shards of the plan."""
        shards, settings = self._plan()
        for number, items in enumerate(shards):
            work(_ShardWithoutTables(self.folder, self.stage, number, items, settings, number, len(shards)))


class _ShardWithoutTables(Shard):
    def write_rows(self, table: str, rows: Sequence[Mapping[str, Any] | NamedTuple]) -> None:
        """Write nothing."""

    def _write(self, table: str, blocks: Iterable[Mapping[str, Sequence[Any] | np.ndarray]]) -> None:
        """Write nothing."""
