"""What a run and the pieces it hands out share, wherever they are made: how a request is opened, what is shown, how it ends."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler
from prefect.runtime import flow_run as this_run
from prefect.runtime import task_run as this_task
from prefect.states import Completed, Failed, State

from cache.errors import OF_THE_MACHINE, MachineError, SevilaError, sentence
from cache.store import Store, stores_below
from pipeline.recipe import Recipe, load
from pipeline.sources import Sources
from pipeline.stage import RunContext
from stages.chain import chain_of
from stages.demo import DEMO, places_in
from stages.progress import Show, shown_by
from stages.steps import RunPiece

log = logging.getLogger("sevila")

SILENT_SECONDS = 60.0  # without progress, after it could not be shown
OF_A_MACHINE = "FailedByMachine"  # name of the state of a piece that another worker, or a later try, may well make


def make_piece(artifact: str, piece: int, request: dict[str, Any]) -> State[None]:
    """Make one piece of an artifact here, and return the state that this ends in.

    Args:
        artifact: Id of the artifact.
        piece: Number of its shard; -1 for an artifact that is not made in shards.
        request: The parameters of the run that asks, which `opened` takes.
    """

    def work() -> State[None]:
        chosen, run, sources = opened(**request)
        with run.store.in_use():
            RunPiece(artifact, piece, chosen, run).walk(chain_of(chosen), sources)
        return Completed(message=f"{artifact} piece {piece}")

    return told(work)


def opened(
    recipe: str, settings: Sequence[str], seed: int | None, places: dict[str, str], execution: dict[str, Any]
) -> tuple[Recipe, RunContext, Sources]:
    """Return the recipe, how and where to run it, and its sources, as this machine has them."""
    chosen = load(recipe, settings, seed)
    store = Store(Path(places["store"] or os.environ.get("SEVILA_STORE", ".sevila")), stores_below())
    where = {kind: split(places[kind]) for kind in ("annotations", "videos", "weights")}
    if recipe == DEMO and not any(where.values()):
        where = places_in(store, seed or 0)
    sources = Sources(store.digests, where)
    run = RunContext(
        store,
        device=execution["device"],
        batch_tokens=execution["batch_tokens"],
        decode_workers=execution["decode_workers"],
        shard_bytes=int(execution["shard_megabytes"] * 2**20),
        sources=sources,
        processes=execution["processes"],
    )
    return chosen, run, sources


def split(places: str) -> list[str]:
    """Return the places that a parameter names."""
    return [place for place in places.split(os.pathsep) if place]


def told(work: Callable[[], State[Any]]) -> State[Any]:
    """Return the state that a flow's work ends in; what people can mend is the state's message, without a traceback."""
    show = progress_artifacts()
    with logs_in_run_log(show), shown_by(show):
        try:
            return work()
        except SevilaError as error:
            return Failed(message=str(error), name=OF_A_MACHINE if isinstance(error, MachineError) else None)
        except OSError as error:
            if error.errno not in OF_THE_MACHINE:
                raise
            return Failed(message=sentence(error), name=OF_A_MACHINE)


def progress_artifacts() -> Show:
    """Return what shows the progress of a loop as an artifact of the step, or else the flow run, that it belongs to."""
    shown: dict[str, Any] = {}
    process, silent_until = os.getpid(), 0.0

    def show(what: str, percent: float, words: str) -> None:
        nonlocal silent_until
        key = key_of(f"{what}-{str(this_task.id or this_run.id)[-8:]}")
        is_over_at_once = percent >= 100 and key not in shown
        if os.getpid() != process or is_over_at_once or time.monotonic() < silent_until:
            return
        try:
            if key in shown:
                update_progress_artifact(shown[key], percent, f"{what}: {words}")
            else:
                shown[key] = create_progress_artifact(percent, key, f"{what}: {words}")
        except Exception as error:  # a server that is gone for a while is no reason to fail a step
            log.warning("progress is not shown: %s", error)
            silent_until = time.monotonic() + SILENT_SECONDS

    return show


@contextmanager
def logs_in_run_log(show: Show) -> Iterator[None]:
    """Have what the stages log, and the warnings of all libraries, in the run's log in Prefect too.

    What processes started from here log arrives as well; progress among it is shown.
    """
    run_id, process, seen = this_run.id, os.getpid(), "is_in_run_log"

    def is_new(record: logging.LogRecord) -> bool:
        """Prefect's own lines are there already; others may come by two loggers, or from a thread that knows of no run."""
        if record.name.split(".")[0] == "prefect" or hasattr(record, seen) or run_id is None:
            return False
        setattr(record, seen, True)
        if FlowRunContext.get() is None and TaskRunContext.get() is None:
            record.flow_run_id = run_id
        if record.process != process and hasattr(record, "progress"):
            show(*record.progress)
        return True

    handler = APILogHandler()
    handler.addFilter(is_new)
    # The root, and those who keep their lines from it.
    loggers = [logging.getLogger(name) for name in (None, "transformers", "huggingface_hub")]
    for logger in loggers:
        logger.addHandler(handler)
    log.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger in loggers:
            logger.removeHandler(handler)


def key_of(text: str) -> str:
    """Return the text as a key of a Prefect artifact: lower case, digits and dashes are all that is allowed."""
    return re.sub("[^a-z0-9]+", "-", text.lower())
