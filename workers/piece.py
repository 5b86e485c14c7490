"""Code shared by a run and its pieces: opening a request, and turning the outcome into a Prefect state."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from prefect.states import Completed, Failed, State

from cache.errors import OF_THE_MACHINE, MachineError, SevilaError, sentence
from cache.printable import printable
from cache.store import Store, stores_below
from pipeline.batching import tokens_suiting
from pipeline.engine.places import KINDS
from pipeline.engine.progress import shown_by
from pipeline.engine.recipe import Recipe
from pipeline.engine.sources import Sources
from pipeline.engine.stage import RunContext
from pipeline.engine.steps import RunPieces
from pipeline.recipes.opening import Request, open_recipe
from stages.all import STAGES
from stages.chain import chain_of
from workers.pages import logs_in_run_log, progress_artifacts

log = logging.getLogger("sevila")

MAX_ATTEMPTS = 4  # of a run whose process dies, and of a step after machine errors
BACK_OFF_SECONDS = [5.0, 20.0, 60.0]
PROGRESS_SECONDS = 15.0  # interval of progress updates, each of which reads the store
SETTING = "sevila-setting"  # name of the flow whose runs are the branches of a chain (workers/as_tasks.py)
MACHINE_FAILURE = "FailedByMachine"  # state name of a failed run whose pieces a retry, or another worker, may complete

GAVE_UP = "InputUnfinished"  # state name of a run that left before the input of its artifact was finished

ShowLeft = Callable[[], int]  # shows how many pieces are missing, and returns it
# (artifact id, number of missing pieces, failures so far by run, ShowLeft): dispatches the pieces to so many runs at most, which
# have numbers from 0 on; some pieces may still be missing afterwards.
MakeAll = Callable[[str, int, Counter[int], ShowLeft], None]


def make_pieces(
    artifact: str, request: dict[str, Any], is_wanted_elsewhere: Callable[[], bool] = lambda: False
) -> State[None]:
    """Build the missing pieces of an artifact that no other process has locked, and return the final state.

    Args:
        artifact: Id of the artifact.
        request: Parameters of the parent run, which `open_request` takes.
        is_wanted_elsewhere: See `RunPieces`.
    """

    def work() -> State[None]:
        # Remembered digests are safe for all sources, because the artifact's id fixes its inputs.
        chosen, run, sources = open_request(**request, remembered=KINDS)
        with run.store.in_use():
            is_done = RunPieces(artifact, chosen, run, is_wanted_elsewhere).walk(chain_of(chosen), sources)
        return Completed(message=artifact, name=None if is_done else GAVE_UP)

    return final_state(work)


def open_request(
    recipe: str,
    settings: Sequence[str],
    seed: int | None,
    places: dict[str, str],
    execution: dict[str, Any],
    remembered: Collection[str] = (),
) -> tuple[Recipe, RunContext, Sources]:
    """Return the recipe, its run context and its sources on this machine; `remembered` as for `Sources`."""
    if execution["batch_tokens"] is None and execution["dispatch"] != "here":
        # The worker that plans the shards may have no GPU while those that build them have one.
        execution = execution | {"batch_tokens": tokens_suiting("cpu" if execution["device"] == "cpu" else "cuda")}
    store = Store(Path(places["store"] or os.environ.get("SEVILA_STORE", ".sevila")), stores_below())
    request = Request(recipe, settings, seed, {kind: split(places[kind]) for kind in KINDS})
    return open_recipe(request, STAGES, RunContext.of(store, execution), remembered=remembered)


def split(places: str) -> list[str]:
    """Split a parameter into places at `os.pathsep`."""
    return [place for place in places.split(os.pathsep) if place]


def final_state(work: Callable[[], State[Any]]) -> State[Any]:
    """Return the final state of a flow; for errors a user can fix, its message is the error's, without a traceback."""
    show = progress_artifacts()
    with logs_in_run_log(show), shown_by(show):
        try:
            return work()
        except SevilaError as error:
            return Failed(
                message=printable(str(error)), name=MACHINE_FAILURE if isinstance(error, MachineError) else None
            )
        except OSError as error:
            if error.errno not in OF_THE_MACHINE:
                raise
            return Failed(message=printable(sentence(error)), name=MACHINE_FAILURE)


def run_name(artifact: str, number: int) -> str:
    """Return the name of a run that builds pieces of an artifact."""
    return f"{artifact} {number}"


def count_failure(number: int, state: State[Any], tries: Counter[int], died: bool) -> None:
    """Count a failed run; raise `SevilaError` unless a retry may succeed.

    Args:
        died: whether its process was killed and nothing else has retried it.
    """
    tries[number] += 1
    log.warning("run %d: %s: %s", number, state.name, state.message)
    if not (died or state.name == MACHINE_FAILURE) or tries[number] >= MAX_ATTEMPTS:
        raise SevilaError(f"run {number} {str(state.name).lower()}: {state.message}")
