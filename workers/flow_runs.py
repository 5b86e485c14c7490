"""Flow runs that build pieces, on Prefect's server: submitted, read, cancelled."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas import FlowRun
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import TERMINAL_STATES, StateType
from prefect.deployments import run_deployment
from prefect.states import Cancelled, Cancelling, State

from workers.piece import SETTING

DEPLOYMENTS = {"gpu": "sevila-piece/gpu", "cpu": "sevila-piece/cpu"}  # of the pieces, by pool
SUBMIT_SECONDS = 20.0  # upper bound between a worker's claiming a run and starting its process
STATE_POLL_SECONDS = 2.0
RUNS_PER_REQUEST = 100  # the server returns 200 at most
Submit = Callable[[str, str, str], UUID]  # (pool, artifact id, flow run name) -> flow run id


def submit(request: dict[str, Any], tag: str, pool: str, artifact: str, name: str) -> UUID:
    """Submit a run that builds missing pieces of an artifact; `request` has the parameters that it shares with its parent."""
    flow_run: Any = run_deployment(
        DEPLOYMENTS[pool],
        parameters={**request, "artifact": artifact},
        timeout=0,
        flow_run_name=name,
        tags=[tag],
    )
    return UUID(str(flow_run.id))


def states_of(client: SyncPrefectClient, run_ids: Sequence[UUID]) -> dict[UUID, State[Any]]:
    """Return the states of the runs that exist, in batches of `RUNS_PER_REQUEST`: a request takes about 20 ms."""
    states: dict[UUID, State[Any]] = {}
    for start in range(0, len(run_ids), RUNS_PER_REQUEST):
        batch = FlowRunFilter.model_validate({"id": {"any_": run_ids[start : start + RUNS_PER_REQUEST]}})
        runs = client.read_flow_runs(flow_run_filter=batch)
        states |= {run.id: run.state for run in runs if run.state is not None}
    return states


def pieces_tag(run_id: Any) -> str:
    """Return the tag of the runs that build pieces for a run."""
    return f"pieces-of-{run_id}"


def cancel_pieces(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """Cancel the pieces and the subflow runs of a cancelled run.

    Prefect calls this hook after stopping the run, with these argument names.
    """
    active = {"type": {"not_any_": [*TERMINAL_STATES, StateType.CANCELLING]}}
    run_filter = FlowRunFilter.model_validate({"tags": {"all_": [pieces_tag(flow_run.id)]}, "state": active})
    with get_client(sync_client=True) as client:
        requested: set[UUID] = set()  # cancel each once: a run whose state the server does not change is returned again
        # The server returns 200 at a time.
        while runs := {run.id for run in client.read_flow_runs(flow_run_filter=run_filter)} - requested:
            cancel(client, list(runs))
            requested |= runs
        # Subflow runs ran in the process that Prefect has stopped.
        children = {"parent_flow_run_id": {"any_": [flow_run.id]}, "state": {"type": {"not_any_": [*TERMINAL_STATES]}}}
        settings = {"name": {"any_": [SETTING]}}
        for setting in client.read_flow_runs(
            flow_filter=FlowFilter.model_validate(settings), flow_run_filter=FlowRunFilter.model_validate(children)
        ):
            client.set_flow_run_state(setting.id, Cancelled(), force=True)


def cancel_scheduled(client: SyncPrefectClient, run_ids: Sequence[UUID]) -> list[UUID]:
    """Cancel the runs that no worker has claimed, and return them."""
    scheduled = [run_id for run_id, state in states_of(client, run_ids).items() if state.is_scheduled()]
    cancel(client, scheduled)
    return scheduled


def cancel(client: SyncPrefectClient, run_ids: Sequence[UUID]) -> None:
    """Cancel runs that are not final.

    A run that a worker is just starting (Pending) would stay Cancelling, as Prefect 3.8 looks for it neither among running
    processes nor in the queue; it is cancelled once it runs, or after `SUBMIT_SECONDS`.
    """
    deadline = time.monotonic() + SUBMIT_SECONDS
    while run_ids:
        states = {run_id: state for run_id, state in states_of(client, run_ids).items() if not state.is_final()}
        is_late = time.monotonic() > deadline
        for run_id, state in states.items():
            if state.name != "Pending" or is_late:
                client.set_flow_run_state(run_id, Cancelling())
        run_ids = [run_id for run_id, state in states.items() if state.name == "Pending" and not is_late]
        if run_ids:
            time.sleep(STATE_POLL_SECONDS)


def n_online(client: SyncPrefectClient, pool: str) -> int:
    """Return how many workers of a pool are online."""
    return sum(worker.status == "ONLINE" for worker in client.read_workers_for_work_pool(pool))
