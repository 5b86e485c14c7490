"""Dispatch of an artifact's pieces to this worker, other workers of its pool, workers of pool gpu, or a Ray cluster.

A piece is a Prefect flow run, or a task run on Ray; its parameters are ids and recipe names only. Which pieces exist or are
locked by another process is recorded in the store alone.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Self
from uuid import UUID

from prefect import get_client
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.runtime import flow_run as this_run

from pipeline.engine.ahead import StepAhead, in_a_thread
from pipeline.engine.build import build, count_missing
from pipeline.engine.stage import Artifact, Config, RunContext, Stage
from workers.flow_runs import Submit, cancel_scheduled, n_online, pieces_tag, submit
from workers.gpu_workers import GpuWorkers
from workers.pages import key_of
from workers.piece import BACK_OFF_SECONDS, MakeAll
from workers.ray_cluster import RayCluster

log = logging.getLogger("sevila")

HELPERS_PER_WORKER = 4  # concurrent runs of a worker of pool cpu, the default of docs/workers.md and `sevila up`
MAX_BRANCHES = 16  # in parallel, if the pool has no limit


class Dispatch:
    """Builds the artifacts of a run in this process, after dispatching the pieces of GPU stages to others.

    For stages without a GPU, free workers of pool cpu build shards alongside this process.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        """Args: `request` has the parameters that a run shares with its pieces."""
        self._target: str = request["execution"]["dispatch"]
        # The tag names the root run, which users cancel, and not the subflow run of a setting.
        self._submit: Submit = partial(submit, request, pieces_tag(this_run.id))
        self._workers = GpuWorkers(self._submit)
        self._ray = RayCluster(request)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Release the workers."""
        self._workers.release()

    def make(self, stage: Stage, cfg: Config, run: RunContext, inputs: Sequence[Any]) -> Artifact:
        """Return the artifact that `build` does."""
        is_shared = self._target != "here" and (stage.gpu or stage.plan)
        n_missing = count_missing(stage, cfg, run, inputs) if is_shared else 0
        if n_missing and stage.gpu:
            with (self._ray if self._target == "ray" else self._workers).connected() as make_all:
                _dispatch_pieces(stage, cfg, run, inputs, n_missing, make_all)
        elif stage.gpu:
            self._workers.keep(str(stage.artifact_id(cfg, inputs)))
        elif n_missing > 1:
            with _helped(stage, str(stage.artifact_id(cfg, inputs)), n_missing - 1, self._submit):
                return build(stage, cfg, run, inputs)
        return build(stage, cfg, run, inputs)

    @contextmanager
    def look_ahead(self, step: StepAhead, run: RunContext) -> Iterator[None]:
        """Begin on a step while the block makes its input: on workers of pool gpu, or in a thread of this process."""
        if self._target == "here":
            with in_a_thread(step, run):
                yield
            return
        if self._target == "workers":
            self._workers.begin(step.id)
        yield

    def n_at_once(self) -> int:
        """Return how many branches of a chain can run in parallel: one for each GPU worker, or GPU of the Ray cluster."""
        if self._target == "workers":
            n_slots = self._workers.n_slots()
            return MAX_BRANCHES if n_slots is None else max(1, n_slots)
        return self._ray.n_slots() if self._target == "ray" else 1


def _dispatch_pieces(
    stage: Stage, cfg: Config, run: RunContext, inputs: Sequence[Any], n_missing: int, make_all: MakeAll
) -> None:
    """Dispatch the missing pieces of an artifact, and return when all exist.

    Runs that build the same artifact share the work: pieces locked by another run are skipped and polled for, with a
    back-off while nothing is finished.

    Raises:
        SevilaError: a piece failed, for the reason given, or was cancelled.
    """
    id, n_pieces = str(stage.artifact_id(cfg, inputs)), n_missing
    log.info("%s: %s is handed out in pieces (%d)", stage.name, id, n_pieces)
    bar: Any = create_progress_artifact(0.0, key_of(id), f"{stage.name}: pieces of {id}")

    def show_left() -> int:
        n_left = count_missing(stage, cfg, run, inputs)
        update_progress_artifact(bar, 100 * (1 - n_left / n_pieces))
        return n_left

    tries: Counter[int] = Counter()
    n_idle = 0  # consecutive rounds without a finished piece: locked by other runs, or failed
    while n_missing:
        make_all(id, n_missing, tries, show_left)
        n_before, n_missing = n_missing, count_missing(stage, cfg, run, inputs)
        n_idle = n_idle + 1 if n_missing == n_before else 0
        if n_missing:
            time.sleep(BACK_OFF_SECONDS[min(max(n_idle, 1), len(BACK_OFF_SECONDS)) - 1])


@contextmanager
def _helped(stage: Stage, id: str, max_helpers: int, submit: Submit) -> Iterator[None]:
    """Submit helper runs to pool cpu, which build the same shards as the block does, from the last one backwards.

    The block does not wait for helpers to start, only for shards that they have locked; without a free worker it builds all
    shards itself. A helper that has started continues until no shard is missing, even if this run fails.
    """
    submitted: list[UUID] = []
    with get_client(sync_client=True) as client:
        try:
            n_workers = n_online(client, "cpu")
            # Enough that the free slots of this run's own worker cannot take all helpers.
            n_helpers = min(HELPERS_PER_WORKER * n_workers, max_helpers) if n_workers > 1 else 0
            if n_helpers:
                log.info("%s: %s is offered to other workers of pool cpu (%d runs)", stage.name, id, n_helpers)
            for _ in range(n_helpers):
                submitted.append(submit("cpu", id, id))
            yield
        finally:
            cancel_scheduled(client, submitted)
