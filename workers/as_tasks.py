"""The steps of a chain as Prefect shows them: each a task, those of one compared setting together in a flow run of their own."""

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
from workers.piece import BACK_OFF_SECONDS, SETTING, TRIES_OF_A_PIECE

log = logging.getLogger("sevila")

Result = TypeVar("Result")
ASK_SECONDS = 10.0  # whether somebody has cancelled a setting
OF_OUR_DEPLOYMENTS = "sevila"  # tag of the runs that automations.yaml marks when their process is gone


class _Here(Generic[Result]):
    """Work of this process. Prefect sends tasks and flows, with all they hold, to Ray with each piece: there it is empty."""

    def __init__(self, work: Callable[[], Result] | None = None) -> None:
        self._work = work

    def __call__(self) -> Result:
        assert self._work is not None, "this process does the work itself"
        return self._work()

    def __reduce__(self) -> tuple[type[_Here[Any]], tuple[()]]:
        return _Here, ()


class AsTasks:
    """A step that runs every stage as a Prefect task, and branches of the chain at once where there are workers for them.

    The task has the stage's name; its run says which of the chain's steps it is, and then the artifact's id. A step that the
    machine fails (a mount that is gone, a full disk) is tried again later; bad input is not.
    """

    def __init__(self, recipe: Recipe, run_steps: Run, branches: Branches) -> None:
        self._recipe = recipe
        self._run_steps = run_steps
        self._branches = branches

    def __call__(self, stage: Stage, /, *inputs: Any, setting: str = "", **changes: Any) -> Any:
        """Return the artifact of a step, as `Step` does."""
        which = setting_of(changes, setting)
        id = stage.artifact_id(self._recipe.config(stage, **changes), inputs)
        name = " ".join(filter(None, (f"{which}:" if which else "", stage.name, f"({id})" if id else "")))
        return _as_a_task(name, stage, inputs, lambda: self._run_steps(stage, *inputs, setting=setting, **changes))

    def as_one(self, name: str, reads: Sequence[Any], work: Callable[[Step], Result]) -> Future[Result]:
        """Do the steps of `work` in a flow run of this name, which opens in the graph of the run."""
        step = AsTasks(self._recipe, self._run_steps.branch(), self._branches)

        def as_flow_run(has_begun: Callable[[], object]) -> Result:
            def do() -> Result:
                has_begun()
                with _cancelled_with_its_run():
                    return work(step)

            here = _Here(do)

            @flow(name=SETTING, flow_run_name=lambda: name, persist_result=False)
            def setting() -> Any:
                return here()

            # Prefect draws an edge from whatever made each of these; as a parameter it would keep all of it, too.
            artifacts = [value for value in reads if isinstance(value, Artifact)]
            with tags(OF_OUR_DEPLOYMENTS):
                outcome: Result = setting(wait_for=artifacts)  # type: ignore[call-overload] # which Prefect leaves out of its types
            return outcome

        return self._branches.start(as_flow_run)


@contextmanager
def _cancelled_with_its_run() -> Iterator[None]:
    """While the block is at work for a setting's run, have somebody's cancelling of it cancel the run that it is part of.

    Prefect stops the processes that its workers started: a run within another has none, and would go on to its end.
    """
    own, name, whole, is_over = str(this_run.id), str(this_run.name), str(this_run.root_flow_run_id), Event()

    def watch() -> None:
        with get_client(sync_client=True) as client:
            while not is_over.wait(ASK_SECONDS):
                try:
                    state = client.read_flow_run(UUID(own)).state
                    if state is not None and state.is_cancelling():
                        log.warning("its setting %r was cancelled: the run is cancelled with it", name)
                        client.set_flow_run_state(
                            UUID(whole), Cancelling(message=f"its setting {name!r} was cancelled")
                        )
                        return
                except Exception as error:  # a server that is gone for a while is no reason to fail a step
                    log.debug("whether the setting is cancelled is not known: %s", error)

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


# A task that the machine fails is tried again; nothing of it is cached or kept by Prefect.
RETRIED: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "retries": TRIES_OF_A_PIECE - 1,
    "retry_delay_seconds": BACK_OFF_SECONDS,
    "retry_condition_fn": _is_of_the_machine,
}


def make_as_tasks(make: Make) -> Make:
    """Return what makes every artifact as a task likewise, once all that it is made from is there."""

    def make_task(stage: Stage, cfg: Config, run: RunContext, inputs: Sequence[Any]) -> Artifact:
        def work() -> Artifact:
            return make(stage, cfg, run, inputs)

        if any(value is not None and value.problem for value in inputs):
            return work()  # which says so: no step that has failed, but one that is not yet to be made
        return _as_a_task(f"{stage.name} ({stage.artifact_id(cfg, inputs)})", stage, inputs, work)

    return make_task


def _as_a_task(name: str, stage: Stage, inputs: Sequence[Any], work: Callable[[], Artifact]) -> Artifact:
    # Prefect walks through whatever a task is given. It gets the artifacts, from which it draws who reads what; the list of
    # thousands of videos is none of its business.
    here = _Here(work)

    @task(name=stage.name, description=stage.summary, task_run_name=lambda: name, **RETRIED)
    def build(reads: list[Artifact]) -> Artifact:
        return here()

    return build([value for value in inputs if isinstance(value, Artifact)])
