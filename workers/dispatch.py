"""Dispatch of an artifact's pieces: to the worker that has the run, others of its pool, those of the GPU pool, or a Ray cluster.

Dispatch is Prefect's: a piece is a flow run of its own, or a task run on Ray, and nothing but ids and recipe names passes. What
is made, and what is being made, only the store knows.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas import FlowRun
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import TERMINAL_STATES, StateType
from prefect.deployments import run_deployment
from prefect.runtime import flow_run as this_run
from prefect.states import Cancelled, Cancelling, State

from pipeline.engine.build import Piece, build, pieces
from pipeline.engine.stage import Artifact, Config, RunContext, Stage
from workers.pages import key_of
from workers.piece import BACK_OFF_SECONDS, SETTING, MakeAll, ShowLeft, count_failure, piece_name
from workers.ray_cluster import RayCluster

log = logging.getLogger("sevila")

PIECES = {"gpu": "sevila-piece/gpu", "cpu": "sevila-piece/cpu"}  # by pool, the deployment that pieces are handed to
ASK_SECONDS = 2.0
SHOW_EVERY_SECONDS = 15.0  # how much is left, which the store is asked for
TAKING_SECONDS = 20.0  # that a worker needs at most between taking a run and starting its process
HELPERS_PER_WORKER = 4  # runs that a worker of pool cpu does at once, as docs/workers.md and `sevila up` have it
HandOut = Callable[[str, str, str], UUID]  # takes a pool, an artifact's id and what the run is to be called
MOST_BRANCHES = 16  # at once, where the pool has no limit
RUNS_AT_A_TIME = 100  # that the server is asked for; it names 200 at most


class Dispatch:
    """Who makes the artifacts of a run: this process, after others have made the pieces of what needs a GPU.

    Where a stage needs none, this process is helped by whatever other workers of the CPU pool are free.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        """Args: `request` has the parameters that a run shares with the pieces it hands out."""
        self._by: str = request["execution"]["dispatch"]
        # By the run that somebody may cancel, and not by the setting's within it that does the step.
        self._hand_out: HandOut = partial(_hand_out, request, _pieces_tag(this_run.id))
        self._ray = RayCluster(request)

    def make(self, stage: Stage, cfg: Config, run: RunContext, inputs: Sequence[Any]) -> Artifact:
        """Return the artifact that `build` does."""
        is_shared = self._by != "here" and (stage.gpu or stage.plan)
        left = pieces(stage, cfg, run, inputs) if is_shared else []
        if left and stage.gpu:
            with self._ray.connected() if self._by == "ray" else _gpu_workers(self._hand_out) as make_all:
                _dispatch_pieces(stage, cfg, run, inputs, left, make_all)
        elif len(left) > 1:
            with _helped(stage, str(stage.artifact_id(cfg, inputs)), len(left) - 1, self._hand_out):
                return build(stage, cfg, run, inputs)
        return build(stage, cfg, run, inputs)

    def n_at_once(self) -> int:
        """Return how many branches of a chain others can be at work on: one for each GPU worker, or GPU of the Ray cluster."""
        if self._by == "workers":
            with get_client(sync_client=True) as client:
                return _n_slots(client) or MOST_BRANCHES
        return self._ray.n_slots if self._by == "ray" else 1


def _dispatch_pieces(
    stage: Stage, cfg: Config, run: RunContext, inputs: Sequence[Any], left: list[Piece], make_all: MakeAll
) -> None:
    """Have others make the pieces of an artifact that nobody has made, and return when all are made.

    Another run that makes the same shares the work: what its pieces are at is skipped here, and looked for again, the less
    often the longer nothing is finished.

    Raises:
        SevilaError: a piece cannot be made, for the reason given, or was cancelled.
    """
    id, n_pieces = str(stage.artifact_id(cfg, inputs)), len(left)
    log.info("%s: %s is handed out in pieces (%d)", stage.name, id, n_pieces)
    bar: Any = create_progress_artifact(0.0, key_of(id), f"{stage.name}: pieces of {id}")

    def show_left() -> int:
        n_left = len(pieces(stage, cfg, run, inputs))
        update_progress_artifact(bar, 100 * (1 - n_left / n_pieces))
        return n_left

    tries: Counter[Piece] = Counter()
    n_idle = 0  # rounds in which nothing was finished: others are at it, or it failed
    while left:
        make_all(id, left, tries, show_left)
        n_before, left = len(left), pieces(stage, cfg, run, inputs)
        n_idle = n_idle + 1 if len(left) == n_before else 0
        if left:
            time.sleep(BACK_OFF_SECONDS[min(max(n_idle, 1), len(BACK_OFF_SECONDS)) - 1])


@contextmanager
def _gpu_workers(hand_out: HandOut) -> Iterator[MakeAll]:
    """Have the workers of pool gpu make pieces, in as many flow runs as can be at work at once.

    Each makes one piece after the other, with the model that it has loaded, until none is left. One that a worker was killed at,
    or that a machine failed, is handed out again a little later, while others go on.
    """
    with get_client(sync_client=True) as client:

        def make_all(id: str, left: list[Piece], tries: Counter[Piece], show_left: ShowLeft) -> None:
            # When each is to be handed out.
            due: dict[Piece, float] = dict.fromkeys(range(_n_at_once(client, len(left))), 0.0)
            waiting: dict[Piece, UUID] = {}
            shown_at = time.monotonic()
            try:
                while due or waiting:
                    for number in [number for number, when in due.items() if when <= time.monotonic()]:
                        waiting[number] = hand_out("gpu", id, piece_name(id, number))
                        del due[number]
                    time.sleep(ASK_SECONDS)
                    if time.monotonic() - shown_at > SHOW_EVERY_SECONDS:
                        shown_at = time.monotonic()
                        show_left()
                    for number, state in _final_states(client, waiting):
                        if waiting.pop(number, None) is None:
                            continue  # all is made, and nobody waits for it any more
                        if state is None:
                            log.warning("run %s was deleted; its work is handed out again", number)
                            due[number] = 0.0
                        elif state.is_completed():  # others are at what is left: who has not begun would find nothing
                            due.clear()
                            idle = _cancel_scheduled(client, list(waiting.values()))
                            waiting = {number: id for number, id in waiting.items() if id not in idle}
                            if not show_left():  # one that is still waited for may have died with its worker
                                waiting.clear()
                        else:
                            count_failure(f"run {number}", number, state, tries, state.is_crashed())
                            due[number] = time.monotonic() + BACK_OFF_SECONDS[tries[number] - 1]
            finally:
                _cancel(client, list(waiting.values()))

        yield make_all


def _n_slots(client: SyncPrefectClient) -> int | None:
    """Return how many runs pool gpu does at once: a worker of ours has one at a time, others as many as their pool may."""
    pool = client.read_work_pool("gpu")
    return _n_online(client, "gpu") if pool.type == "process" else pool.concurrency_limit


def _n_at_once(client: SyncPrefectClient, n_left: int) -> int:
    """Return in how many runs that many pieces are made."""
    n_slots = _n_slots(client)
    if n_slots == 0:
        log.warning("no worker of pool gpu is online: the pieces wait until one is (docs/workers.md)")
    return max(1, min(n_left if n_slots is None else n_slots, n_left))


@contextmanager
def _helped(stage: Stage, id: str, at_most: int, hand_out: HandOut) -> Iterator[None]:
    """Offer the shards that the block is about to make to the workers of pool cpu too, who begin with the last one.

    The block waits for no worker, only for shards that one has begun: where all are taken, by runs like this one perhaps, it
    makes everything itself. Who has begun to help goes on until nothing is left, also where this run fails meanwhile.
    """
    offered: list[UUID] = []
    with get_client(sync_client=True) as client:
        try:
            n_workers = _n_online(client, "cpu")
            # So many that the worker which has this run, and free slots, does not take them all.
            n_helpers = min(HELPERS_PER_WORKER * n_workers, at_most) if n_workers > 1 else 0
            if n_helpers:
                log.info("%s: %s is offered to other workers of pool cpu (%d runs)", stage.name, id, n_helpers)
            for _ in range(n_helpers):
                offered.append(hand_out("cpu", id, id))
            yield
        finally:
            _cancel_scheduled(client, offered)


def _n_online(client: SyncPrefectClient, pool: str) -> int:
    return sum(worker.status == "ONLINE" for worker in client.read_workers_for_work_pool(pool))


def _hand_out(request: dict[str, Any], tag: str, pool: str, artifact: str, name: str) -> UUID:
    flow_run: Any = run_deployment(
        PIECES[pool],
        parameters={**request, "artifact": artifact, "piece": None},
        timeout=0,
        flow_run_name=name,
        tags=[tag],
    )
    return UUID(str(flow_run.id))


def _final_states(client: SyncPrefectClient, waiting: dict[Piece, UUID]) -> list[tuple[Piece, State[Any] | None]]:
    """Return the pieces whose runs have ended, with their states; None for a run that is no more."""
    states = _states(client, list(waiting.values()))
    by_piece = [(piece, states.get(run_id)) for piece, run_id in waiting.items()]
    return [(piece, state) for piece, state in by_piece if state is None or state.is_final()]


def _states(client: SyncPrefectClient, run_ids: Sequence[UUID]) -> dict[UUID, State[Any]]:
    """Return the states of those runs that exist; asked for by the hundred, as each question takes the server some 20 ms."""
    states: dict[UUID, State[Any]] = {}
    for start in range(0, len(run_ids), RUNS_AT_A_TIME):
        wanted = FlowRunFilter.model_validate({"id": {"any_": run_ids[start : start + RUNS_AT_A_TIME]}})
        runs = client.read_flow_runs(flow_run_filter=wanted)
        states |= {run.id: run.state for run in runs if run.state is not None}
    return states


def _pieces_tag(run_id: Any) -> str:
    return f"pieces-of-{run_id}"


def cancel_pieces(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """Cancel what a cancelled run has handed out, and the runs of its settings.

    Prefect calls this with these names when it has ended the run.
    """
    at_work = {"type": {"not_any_": [*TERMINAL_STATES, StateType.CANCELLING]}}
    wanted = FlowRunFilter.model_validate({"tags": {"all_": [_pieces_tag(flow_run.id)]}, "state": at_work})
    with get_client(sync_client=True) as client:
        requested: set[UUID] = set()  # once each: a run whose state the server does not change stays among those named
        while runs := {run.id for run in client.read_flow_runs(flow_run_filter=wanted)} - requested:  # 200 at a time
            _cancel(client, list(runs))
            requested |= runs
        # The runs of settings had no process but the one that has ended.
        of_run = {"parent_flow_run_id": {"any_": [flow_run.id]}, "state": {"type": {"not_any_": [*TERMINAL_STATES]}}}
        settings = {"name": {"any_": [SETTING]}}
        for setting in client.read_flow_runs(
            flow_filter=FlowFilter.model_validate(settings), flow_run_filter=FlowRunFilter.model_validate(of_run)
        ):
            client.set_flow_run_state(setting.id, Cancelled(), force=True)


def _cancel_scheduled(client: SyncPrefectClient, run_ids: Sequence[UUID]) -> list[UUID]:
    """Cancel those runs that no worker has taken, and return them."""
    scheduled = [run_id for run_id, state in _states(client, run_ids).items() if state.is_scheduled()]
    _cancel(client, scheduled)
    return scheduled


def _cancel(client: SyncPrefectClient, run_ids: Sequence[UUID]) -> None:
    """Cancel runs that have not ended.

    One that a worker is just taking would stay cancelling: Prefect 3.8 looks for it neither there nor in the queue. It is
    cancelled a moment later.
    """
    give_up = time.monotonic() + TAKING_SECONDS
    while run_ids:
        states = {run_id: state for run_id, state in _states(client, run_ids).items() if not state.is_final()}
        is_over = time.monotonic() > give_up
        for run_id, state in states.items():
            if state.name != "Pending" or is_over:
                client.set_flow_run_state(run_id, Cancelling())
        run_ids = [run_id for run_id, state in states.items() if state.name == "Pending" and not is_over]
        if run_ids:
            time.sleep(ASK_SECONDS)
