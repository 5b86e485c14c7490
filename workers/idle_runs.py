"""Runs of pool gpu that stay when a step is done: the next step of their parent run finds the process and its models there.

A run that stays is in state `Running`, named "Idle". Its parent hands over the next artifact as an input of the run. It ends
after `IDLE_SECONDS`, or as soon as another run is waiting for its worker.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
from prefect.runtime import deployment as this_deployment
from prefect.runtime import flow_run as this_run
from prefect.states import Running, State

from pipeline.loaded_models import keeping_models
from workers.piece import GAVE_UP, make_pieces

log = logging.getLogger("sevila")

IDLE = "Idle"  # name of the state of a run that waits for the next step
IDLE_SECONDS = 30.0
POLL_SECONDS = 0.5
TAKE_SECONDS = 10.0  # upper bound between a hand-over and its being taken
NEXT_ARTIFACT = "next-artifact"  # key of the run's input


def make_pieces_and_stay(artifact: str, request: dict[str, Any]) -> State[None]:
    """Build pieces as `make_pieces` does; on a worker of pool gpu, then stay for what the parent run hands over."""
    with keeping_models():
        state = make_pieces(artifact, request, _is_worker_wanted)
        while (
            state.is_completed()
            and state.name != GAVE_UP
            and this_deployment.name == "gpu"
            and (artifact := _next_artifact(artifact))
        ):
            state = make_pieces(artifact, request, _is_worker_wanted)
    return state


def is_idle(state: State[Any], artifact: str) -> bool:
    """Return whether the run of this state has done its share of the artifact, and stays."""
    return state.name == IDLE and state.message == artifact


def hand_over(client: SyncPrefectClient, run_id: UUID, artifact: str) -> bool:
    """Hand an artifact to a run; return whether it has taken it, which it has not if it is not idle or its process is dead."""
    idle = state = client.read_flow_run(run_id).state
    if idle is None or idle.name != IDLE:
        return False
    client.create_flow_run_input(run_id, NEXT_ARTIFACT, artifact)
    give_up = time.monotonic() + TAKE_SECONDS
    while state is not None and state.id == idle.id and time.monotonic() < give_up:
        time.sleep(POLL_SECONDS)
        state = client.read_flow_run(run_id).state
    return state is not None and state.id != idle.id and state.is_running()


def release(client: SyncPrefectClient, run_id: UUID) -> None:
    """Let a run end that is idle."""
    client.create_flow_run_input(run_id, NEXT_ARTIFACT, "")


def _next_artifact(built: str) -> str:
    """Wait for another artifact; return its id, or an empty text if there is none."""
    run_id = UUID(str(this_run.id))
    try:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run_id, Running(name=IDLE, message=built))
            give_up = time.monotonic() + IDLE_SECONDS
            while time.monotonic() < give_up:
                if inputs := client.filter_flow_run_input(run_id, NEXT_ARTIFACT, limit=1, exclude_keys=set()):
                    client.delete_flow_run_input(run_id, NEXT_ARTIFACT)
                    if artifact := str(inputs[0].value):
                        client.update_flow_run(run_id, name=artifact)
                        client.set_flow_run_state(run_id, Running())
                    return artifact
                if _is_worker_wanted():
                    break
                time.sleep(POLL_SECONDS)
    except Exception as error:  # the artifact is built: an unreachable server must not fail the run
        log.debug("no further artifact can be asked for: %s", error)
    return ""


def _is_worker_wanted() -> bool:
    """Return whether another run waits for a worker of pool gpu; False if the server cannot be reached."""
    is_due = {"state": {"type": {"any_": ["SCHEDULED"]}}, "expected_start_time": {"before_": datetime.now(UTC)}}
    pool = WorkPoolFilter.model_validate({"name": {"any_": ["gpu"]}})
    run_filter = FlowRunFilter.model_validate(is_due)
    try:
        with get_client(sync_client=True) as client:
            return bool(client.read_flow_runs(flow_run_filter=run_filter, work_pool_filter=pool, limit=1))
    except Exception as error:
        log.debug("the server does not say whether a run waits: %s", error)
        return False
