"""Dispatch of an artifact's pieces to this worker, other workers of its pool, workers of pool gpu, or a Ray cluster.

A piece is a Prefect flow run, or a task run on Ray; its parameters are ids and recipe names only. Which pieces exist or are
locked by another process is recorded in the store alone.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run as this_run
from prefect.states import Cancelled, Cancelling, State

from pipeline.engine.build import Piece, build, pieces
from pipeline.engine.stage import Artifact, Config, RunContext, Stage
from workers.pages import key_of
from workers.piece import BACK_OFF_SECONDS, SETTING, MakeAll, ShowLeft, count_failure, piece_name
from workers.ray_cluster import RayCluster
from workers.staying import hand_over, is_idle

log = logging.getLogger("sevila")

DEPLOYMENTS = {"gpu": "sevila-piece/gpu", "cpu": "sevila-piece/cpu"}  # of the pieces, by pool
POLL_SECONDS = 2.0
SHOW_EVERY_SECONDS = 15.0  # interval of progress updates, each of which reads the store
SUBMIT_SECONDS = 20.0  # upper bound between a worker's claiming a run and starting its process
HELPERS_PER_WORKER = 4  # concurrent runs of a worker of pool cpu, the default of docs/workers.md and `sevila up`
Submit = Callable[[str, str, str], UUID]  # (pool, artifact id, flow run name) -> flow run id
MAX_BRANCHES = 16  # in parallel, if the pool has no limit
RUNS_PER_REQUEST = 100  # the server returns 200 at most


class Dispatch:
    """Builds the artifacts of a run in this process, after dispatching the pieces of GPU stages to others.

    For stages without a GPU, free workers of pool cpu build shards alongside this process.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        """Args: `request` has the parameters that a run shares with its pieces."""
        self._target: str = request["execution"]["dispatch"]
        # The tag names the root run, which users cancel, and not the subflow run of a setting.
        self._submit: Submit = partial(_submit, request, _pieces_tag(this_run.id))
        self._staying: list[UUID] = []  # runs of pool gpu that may be idle
        self._ray = RayCluster(request)

    def make(self, stage: Stage, cfg: Config, run: RunContext, inputs: Sequence[Any]) -> Artifact:
        """Return the artifact that `build` does."""
        is_shared = self._target != "here" and (stage.gpu or stage.plan)
        missing = pieces(stage, cfg, run, inputs) if is_shared else []
        if missing and stage.gpu:
            with (
                self._ray.connected()
                if self._target == "ray"
                else _gpu_workers(self._submit, self._staying) as make_all
            ):
                _dispatch_pieces(stage, cfg, run, inputs, missing, make_all)
        elif len(missing) > 1:
            with _helped(stage, str(stage.artifact_id(cfg, inputs)), len(missing) - 1, self._submit):
                return build(stage, cfg, run, inputs)
        return build(stage, cfg, run, inputs)

    def n_at_once(self) -> int:
        """Return how many branches of a chain can run in parallel: one for each GPU worker, or GPU of the Ray cluster."""
        if self._target == "workers":
            with get_client(sync_client=True) as client:
                n_slots = _n_slots(client)
                return MAX_BRANCHES if n_slots is None else max(1, n_slots)
        return self._ray.n_slots() if self._target == "ray" else 1


def _dispatch_pieces(
    stage: Stage, cfg: Config, run: RunContext, inputs: Sequence[Any], missing: list[Piece], make_all: MakeAll
) -> None:
    """Dispatch the missing pieces of an artifact, and return when all exist.

    Runs that build the same artifact share the work: pieces locked by another run are skipped and polled for, with a
    back-off while nothing is finished.

    Raises:
        SevilaError: a piece failed, for the reason given, or was cancelled.
    """
    id, n_pieces = str(stage.artifact_id(cfg, inputs)), len(missing)
    log.info("%s: %s is handed out in pieces (%d)", stage.name, id, n_pieces)
    bar: Any = create_progress_artifact(0.0, key_of(id), f"{stage.name}: pieces of {id}")

    def show_left() -> int:
        n_left = len(pieces(stage, cfg, run, inputs))
        update_progress_artifact(bar, 100 * (1 - n_left / n_pieces))
        return n_left

    tries: Counter[Piece] = Counter()
    n_idle = 0  # consecutive rounds without a finished piece: locked by other runs, or failed
    while missing:
        make_all(id, missing, tries, show_left)
        n_before, missing = len(missing), pieces(stage, cfg, run, inputs)
        n_idle = n_idle + 1 if len(missing) == n_before else 0
        if missing:
            time.sleep(BACK_OFF_SECONDS[min(max(n_idle, 1), len(BACK_OFF_SECONDS)) - 1])


@contextmanager
def _gpu_workers(submit: Submit, staying: list[UUID]) -> Iterator[MakeAll]:
    """Yield a function that builds pieces on workers of pool gpu, in as many flow runs as the pool can run in parallel.

    Each flow run builds one piece after the other with the model it has loaded, until none is missing, and then stays for the
    next step (workers/staying.py): steps take runs from `staying` and return them there. A run is submitted again after a
    back-off if its worker was killed or its machine failed; the other runs continue.
    """
    with get_client(sync_client=True) as client:

        def make_all(id: str, missing: list[Piece], tries: Counter[Piece], show_left: ShowLeft) -> None:
            # By run number, the time at which to submit it.
            due: dict[Piece, float] = dict.fromkeys(range(_n_runs(client, len(missing))), 0.0)
            waiting: dict[Piece, UUID] = {}
            shown_at = time.monotonic()
            try:
                while due or waiting:
                    for number in [number for number, submit_at in due.items() if submit_at <= time.monotonic()]:
                        waiting[number] = _taken(client, staying, id) or submit("gpu", id, piece_name(id, number))
                        del due[number]
                    time.sleep(POLL_SECONDS)
                    if time.monotonic() - shown_at > SHOW_EVERY_SECONDS:
                        shown_at = time.monotonic()
                        show_left()
                    for number, state in _states_when_done(client, waiting, id):
                        run_id = waiting.pop(number, None)
                        if run_id is None:
                            continue  # removed by an earlier iteration
                        if state is None:
                            log.warning("run %s was deleted and is submitted again", number)
                            due[number] = 0.0
                        elif state.is_completed() or is_idle(state, id):
                            if is_idle(state, id):
                                staying.append(run_id)
                            due.clear()  # no piece is left to lock: runs that have not started would do nothing
                            cancelled = _cancel_scheduled(client, list(waiting.values()))
                            waiting = {number: run for number, run in waiting.items() if run not in cancelled}
                            if not show_left():  # all pieces exist, even if a run is still waiting or lost its worker
                                staying.extend(waiting.values())
                                waiting.clear()
                        else:
                            count_failure(f"run {number}", number, state, tries, state.is_crashed())
                            due[number] = time.monotonic() + BACK_OFF_SECONDS[tries[number] - 1]
            finally:
                _cancel(client, list(waiting.values()))

        yield make_all


def _n_slots(client: SyncPrefectClient) -> int | None:
    """Return how many runs pool gpu can run in parallel: one per worker of type process, else the pool's limit, if any."""
    pool = client.read_work_pool("gpu")
    return _n_online(client, "gpu") if pool.type == "process" else pool.concurrency_limit


def _n_runs(client: SyncPrefectClient, n_missing: int) -> int:
    """Return the number of flow runs in which to build that many pieces."""
    n_slots = _n_slots(client)
    if n_slots == 0:
        log.warning("no worker of pool gpu is online: the pieces wait until one is (docs/workers.md)")
    return max(1, min(n_missing if n_slots is None else n_slots, n_missing))


@contextmanager
def _helped(stage: Stage, id: str, max_helpers: int, submit: Submit) -> Iterator[None]:
    """Submit helper runs to pool cpu, which build the same shards as the block does, from the last one backwards.

    The block does not wait for helpers to start, only for shards that they have locked; without a free worker it builds all
    shards itself. A helper that has started continues until no shard is missing, even if this run fails.
    """
    submitted: list[UUID] = []
    with get_client(sync_client=True) as client:
        try:
            n_workers = _n_online(client, "cpu")
            # Enough that the free slots of this run's own worker cannot take all helpers.
            n_helpers = min(HELPERS_PER_WORKER * n_workers, max_helpers) if n_workers > 1 else 0
            if n_helpers:
                log.info("%s: %s is offered to other workers of pool cpu (%d runs)", stage.name, id, n_helpers)
            for _ in range(n_helpers):
                submitted.append(submit("cpu", id, id))
            yield
        finally:
            _cancel_scheduled(client, submitted)


def _n_online(client: SyncPrefectClient, pool: str) -> int:
    return sum(worker.status == "ONLINE" for worker in client.read_workers_for_work_pool(pool))


def _submit(request: dict[str, Any], tag: str, pool: str, artifact: str, name: str) -> UUID:
    flow_run: Any = run_deployment(
        DEPLOYMENTS[pool],
        parameters={**request, "artifact": artifact, "piece": None},
        timeout=0,
        flow_run_name=name,
        tags=[tag],
    )
    return UUID(str(flow_run.id))


def _taken(client: SyncPrefectClient, staying: list[UUID], id: str) -> UUID | None:
    """Hand an artifact to one of the runs that stay, and return the run; None if none is idle."""
    while staying:
        with suppress(IndexError, ObjectNotFound):  # another branch took the last one; a user deleted the run
            if hand_over(client, run_id := staying.pop(), id):
                return run_id
    return None


def _states_when_done(
    client: SyncPrefectClient, waiting: dict[Piece, UUID], id: str
) -> list[tuple[Piece, State[Any] | None]]:
    """Return the pieces whose runs are final or idle, with their states; None for a run that was deleted."""
    states = _states(client, list(waiting.values()))
    by_piece = [(piece, states.get(run_id)) for piece, run_id in waiting.items()]
    return [(piece, state) for piece, state in by_piece if state is None or state.is_final() or is_idle(state, id)]


def _states(client: SyncPrefectClient, run_ids: Sequence[UUID]) -> dict[UUID, State[Any]]:
    """Return the states of the runs that exist, in batches of `RUNS_PER_REQUEST`: a request takes about 20 ms."""
    states: dict[UUID, State[Any]] = {}
    for start in range(0, len(run_ids), RUNS_PER_REQUEST):
        batch = FlowRunFilter.model_validate({"id": {"any_": run_ids[start : start + RUNS_PER_REQUEST]}})
        runs = client.read_flow_runs(flow_run_filter=batch)
        states |= {run.id: run.state for run in runs if run.state is not None}
    return states


def _pieces_tag(run_id: Any) -> str:
    return f"pieces-of-{run_id}"


def cancel_pieces(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """Cancel the pieces and the subflow runs of a cancelled run.

    Prefect calls this hook after stopping the run, with these argument names.
    """
    active = {"type": {"not_any_": [*TERMINAL_STATES, StateType.CANCELLING]}}
    run_filter = FlowRunFilter.model_validate({"tags": {"all_": [_pieces_tag(flow_run.id)]}, "state": active})
    with get_client(sync_client=True) as client:
        requested: set[UUID] = set()  # cancel each once: a run whose state the server does not change is returned again
        # The server returns 200 at a time.
        while runs := {run.id for run in client.read_flow_runs(flow_run_filter=run_filter)} - requested:
            _cancel(client, list(runs))
            requested |= runs
        # Subflow runs ran in the process that Prefect has stopped.
        children = {"parent_flow_run_id": {"any_": [flow_run.id]}, "state": {"type": {"not_any_": [*TERMINAL_STATES]}}}
        settings = {"name": {"any_": [SETTING]}}
        for setting in client.read_flow_runs(
            flow_filter=FlowFilter.model_validate(settings), flow_run_filter=FlowRunFilter.model_validate(children)
        ):
            client.set_flow_run_state(setting.id, Cancelled(), force=True)


def _cancel_scheduled(client: SyncPrefectClient, run_ids: Sequence[UUID]) -> list[UUID]:
    """Cancel the runs that no worker has claimed, and return them."""
    scheduled = [run_id for run_id, state in _states(client, run_ids).items() if state.is_scheduled()]
    _cancel(client, scheduled)
    return scheduled


def _cancel(client: SyncPrefectClient, run_ids: Sequence[UUID]) -> None:
    """Cancel runs that are not final.

    A run that a worker is just starting (Pending) would stay Cancelling, as Prefect 3.8 looks for it neither among running
    processes nor in the queue; it is cancelled once it runs, or after `SUBMIT_SECONDS`.
    """
    deadline = time.monotonic() + SUBMIT_SECONDS
    while run_ids:
        states = {run_id: state for run_id, state in _states(client, run_ids).items() if not state.is_final()}
        is_late = time.monotonic() > deadline
        for run_id, state in states.items():
            if state.name != "Pending" or is_late:
                client.set_flow_run_state(run_id, Cancelling())
        run_ids = [run_id for run_id, state in states.items() if state.name == "Pending" and not is_late]
        if run_ids:
            time.sleep(POLL_SECONDS)
