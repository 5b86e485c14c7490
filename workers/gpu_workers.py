"""Workers of pool gpu, and the flow runs in which they build pieces."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import State

from workers.flow_runs import STATE_POLL_SECONDS, Submit, cancel, cancel_scheduled, n_online, states_of
from workers.idle_runs import IDLE, hand_over, is_idle, release
from workers.piece import BACK_OFF_SECONDS, GAVE_UP, PROGRESS_SECONDS, MakeAll, ShowLeft, count_failure, run_name

log = logging.getLogger("sevila")


class GpuWorkers:
    """Workers of pool gpu, which build pieces in as many flow runs as the pool can run in parallel.

    Each flow run builds one piece after the other with the model it has loaded, until none is missing, and then stays for the
    next step (workers/idle_runs.py). A run is submitted again after a back-off if its worker was killed or its machine failed;
    the other runs continue.
    """

    def __init__(self, submit: Submit) -> None:
        self._submit = submit
        self._begun: dict[str, list[UUID]] = {}  # runs that have begun on an artifact before its inputs are finished
        self._staying: list[UUID] = []  # runs that have built pieces and may be idle; shared by all branches of a chain

    @contextmanager
    def connected(self) -> Iterator[MakeAll]:
        """Yield a function that builds pieces on the workers."""
        with get_client(sync_client=True) as client:
            yield partial(self._make_all, client)

    def n_slots(self) -> int | None:
        """Return how many runs the pool can run in parallel; None if it has no limit."""
        with get_client(sync_client=True) as client:
            return _n_slots(client)

    def begin(self, id: str) -> None:
        """Let the pool's workers begin on an artifact whose inputs are still being made."""
        if id in self._begun:
            return
        try:
            with get_client(sync_client=True) as client:
                numbers = range(_n_slots(client) or 0)
                self._begun[id] = [self._run_on(client, id, number) for number in numbers]
        except Exception as error:  # the step itself meets the cause again
            log.debug("no worker begins on %s: %s", id, error)

    def keep(self, id: str) -> None:
        """Keep the runs that began on an artifact, of which no piece is missing, for a later step."""
        self._staying += self._begun.pop(id, [])

    def release(self) -> None:
        """Let the runs end that stay, and cancel those that have begun on something that is no longer needed."""
        begun = [run_id for runs in self._begun.values() for run_id in runs]
        if self._staying or begun:
            with get_client(sync_client=True) as client:
                cancel(client, begun)
                for run_id in self._staying:
                    with suppress(PrefectHTTPStatusError):  # a user deleted the run
                        release(client, run_id)

    def _make_all(
        self, client: SyncPrefectClient, id: str, n_missing: int, tries: Counter[int], show_left: ShowLeft
    ) -> None:
        waiting = dict(enumerate(self._begun.pop(id, [])))  # runs by number
        n_runs = _n_runs(client, n_missing)
        due = {number: 0.0 for number in range(n_runs) if number not in waiting}  # when to submit them
        shown_at = time.monotonic()
        try:
            while due or waiting:
                for number in [number for number, submit_at in due.items() if submit_at <= time.monotonic()]:
                    waiting[number] = self._run_on(client, id, number)
                    del due[number]
                time.sleep(STATE_POLL_SECONDS)
                if time.monotonic() - shown_at > PROGRESS_SECONDS:
                    shown_at = time.monotonic()
                    show_left()
                over = _states_when_over(client, waiting, id)
                if any(_has_no_more(state, id) for state in over.values()):
                    due.clear()  # no piece is left to lock: runs that have not started would do nothing
                    cancelled = cancel_scheduled(client, list(waiting.values()))
                    waiting = {number: run_id for number, run_id in waiting.items() if run_id not in cancelled}
                    if not show_left():  # all pieces exist, even if a run is still waiting or lost its worker
                        self._staying += waiting.values()
                        waiting.clear()
                        return
                for number, state in over.items():
                    run_id = waiting.pop(number)
                    if state is None or state.name == GAVE_UP:
                        log.warning("run %s was deleted, or left an unfinished input; it is submitted again", number)
                        due[number] = 0.0
                    elif is_idle(state, id):
                        self._staying.append(run_id)
                    elif not state.is_completed():
                        count_failure(number, state, tries, state.is_crashed())
                        due[number] = time.monotonic() + BACK_OFF_SECONDS[tries[number] - 1]
        finally:
            cancel(client, list(waiting.values()))

    def _run_on(self, client: SyncPrefectClient, id: str, number: int) -> UUID:
        return self._hand_over(client, id) or self._submit("gpu", id, run_name(id, number))

    def _hand_over(self, client: SyncPrefectClient, id: str) -> UUID | None:
        """Hand an artifact to one of the runs that stay, and return the run; None if none is idle."""
        for run_id, state in states_of(client, list(self._staying)).items():
            if state.name == IDLE or state.is_final():  # others are about to end their step
                # Another branch took it; a user deleted the run.
                with suppress(ValueError, ObjectNotFound, PrefectHTTPStatusError):
                    self._staying.remove(run_id)
                    if hand_over(client, run_id, id):
                        return run_id
        return None


def _states_when_over(client: SyncPrefectClient, waiting: dict[int, UUID], id: str) -> dict[int, State[Any] | None]:
    """Return the states of the runs that are final or idle, by their numbers; None for one that was deleted."""
    states = states_of(client, list(waiting.values()))
    by_number = {number: states.get(run_id) for number, run_id in waiting.items()}
    return {n: state for n, state in by_number.items() if state is None or state.is_final() or is_idle(state, id)}


def _has_no_more(state: State[Any] | None, id: str) -> bool:
    """Return whether a run in this state, None if it was deleted, has found no further piece of the artifact to lock."""
    return state is not None and (is_idle(state, id) or (state.is_completed() and state.name != GAVE_UP))


def _n_slots(client: SyncPrefectClient) -> int | None:
    """Return how many runs pool gpu can run in parallel: one per worker of type process, else the pool's limit, if any."""
    pool = client.read_work_pool("gpu")
    return n_online(client, "gpu") if pool.type == "process" else pool.concurrency_limit


def _n_runs(client: SyncPrefectClient, n_missing: int) -> int:
    """Return the number of flow runs in which to build that many pieces."""
    n_slots = _n_slots(client)
    if n_slots == 0:
        log.warning("no worker of pool gpu is online: the pieces wait until one is (docs/workers.md)")
    return max(1, min(n_missing if n_slots is None else n_slots, n_missing))
