"""Run the steps of a chain as Prefect tasks; the steps of one compared setting form a subflow run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, Generic, TypeVar
from uuid import UUID

from prefect import flow, get_client, tags, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run as this_run
from prefect.states import Cancelling, State

from cache.errors import OF_THE_MACHINE, MachineError
from pipeline.engine.branches import Branches
from pipeline.engine.build import Make
from pipeline.engine.recipe import Recipe
from pipeline.engine.stage import Artifact, Config, RunContext, Stage
from pipeline.engine.steps import Run, Step, setting_of
from workers.piece import BACK_OFF_SECONDS, MAX_ATTEMPTS, SETTING

log = logging.getLogger("sevila")

Result = TypeVar("Result")
CANCELLATION_POLL_SECONDS = 10.0
DEPLOYMENT_TAG = "sevila"  # automations.yaml marks runs with this tag as crashed when their process is gone


class _LocalCall(Generic[Result]):
    """A callable that stays in this process: Prefect pickles tasks and flows with their closures for Ray; there it is empty."""

    def __init__(self, work: Callable[[], Result] | None = None) -> None:
        self._work = work

    def __call__(self) -> Result:
        assert self._work is not None, "only the process that created it can call it"
        return self._work()

    def __reduce__(self) -> tuple[type[_LocalCall[Any]], tuple[()]]:
        return _LocalCall, ()


class AsTasks:
    """A step that runs every stage as a Prefect task, and branches of the chain in parallel if there are workers for them.

    The task has the stage's name; the task run's name gives the step's setting and the artifact's id. A step is retried after
    a machine error (a lost mount, a full disk), but not after bad input.
    """

    def __init__(self, recipe: Recipe, run_steps: Run, branches: Branches, is_branch: bool = False) -> None:
        self._recipe = recipe
        self._is_branch = is_branch
        self._run_steps = run_steps
        self._branches = branches

    def __call__(self, stage: Stage, /, *inputs: Any, setting: str = "", **changes: Any) -> Any:
        """Return the artifact of a step, as `Step` does; beside a branch that has failed, the chain ends with its error."""
        if not self._is_branch:
            self._branches.raise_failed()
        label = setting_of(changes, setting)
        id = stage.artifact_id(self._recipe.config(stage, **changes), inputs)
        name = " ".join(filter(None, (f"{label}:" if label else "", stage.name, f"({id})" if id else "")))
        return _as_a_task(name, stage, inputs, lambda: self._run_steps(stage, *inputs, setting=setting, **changes))

    def as_one(self, name: str, reads: Sequence[Any], work: Callable[[Step], Result]) -> Future[Result]:
        """Run the steps of `work` in a subflow run of this name, which can be expanded in the parent run's graph."""
        step = AsTasks(self._recipe, self._run_steps.branch(), self._branches, is_branch=True)

        def as_flow_run(has_begun: Callable[[], object]) -> Result:
            def do() -> Result:
                has_begun()
                with _cancelled_with_its_run():
                    return work(step)

            local_call = _LocalCall(do)

            @flow(name=SETTING, flow_run_name=lambda: name, persist_result=False)
            def setting() -> Any:
                return local_call()

            # `wait_for` makes Prefect draw the edges from upstream tasks; parameters would do that too, but are also stored.
            artifacts = [value for value in reads if isinstance(value, Artifact)]
            with tags(DEPLOYMENT_TAG):
                outcome: Result = setting(wait_for=artifacts)  # type: ignore[call-overload] # missing in Prefect's types
            return outcome

        return self._branches.start(as_flow_run)


@contextmanager
def _cancelled_with_its_run() -> Iterator[None]:
    """Cancel the root flow run if a user cancels the present subflow run during the block.

    Prefect cancels a run by stopping the process that a worker started for it; a subflow run has no process of its own.
    """
    run_id, name, root_id, is_over = str(this_run.id), str(this_run.name), str(this_run.root_flow_run_id), Event()

    def watch() -> None:
        with get_client(sync_client=True) as client:
            while not is_over.wait(CANCELLATION_POLL_SECONDS):
                try:
                    state = client.read_flow_run(UUID(run_id)).state
                    if state is not None and state.is_cancelling():
                        log.warning("its setting %r was cancelled: the run is cancelled with it", name)
                        client.set_flow_run_state(
                            UUID(root_id), Cancelling(message=f"its setting {name!r} was cancelled")
                        )
                        return
                except Exception as error:  # an unreachable server must not fail the step
                    log.debug("cannot check whether the setting is cancelled: %s", error)

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()


def _is_of_the_machine(task: Any, run: Any, state: State[Any]) -> bool:
    try:
        state.result()
    except Exception as error:
        return isinstance(error, MachineError) or (isinstance(error, OSError) and error.errno in OF_THE_MACHINE)
    return False


# Task options: retry after a machine error; Prefect caches and persists nothing.
RETRIED: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "retries": MAX_ATTEMPTS - 1,
    "retry_delay_seconds": BACK_OFF_SECONDS,
    "retry_condition_fn": _is_of_the_machine,
}


def make_as_tasks(make: Make) -> Make:
    """Return a function that runs `make` as a task, if all inputs exist."""

    def make_task(stage: Stage, cfg: Config, run: RunContext, inputs: Sequence[Any]) -> Artifact:
        def work() -> Artifact:
            return make(stage, cfg, run, inputs)

        if any(value is not None and value.problem for value in inputs):
            return work()  # raises: an input is missing, which is not a failed task
        return _as_a_task(f"{stage.name} ({stage.artifact_id(cfg, inputs)})", stage, inputs, work)

    return make_task


def _as_a_task(name: str, stage: Stage, inputs: Sequence[Any], work: Callable[[], Artifact]) -> Artifact:
    # Prefect traverses all arguments of a task. It gets only the artifacts, to draw the graph's edges, and not the list of
    # thousands of videos.
    local_call = _LocalCall(work)

    @task(name=stage.name, description=stage.summary, task_run_name=lambda: name, **RETRIED)
    def build(reads: list[Artifact]) -> Artifact:
        return local_call()

    return build([value for value in inputs if isinstance(value, Artifact)])
