"""What a run and the pieces it hands out share: how a request is opened, and how its work ends, wherever it is done."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect.logging.handlers import APILogHandler
from prefect.states import Completed, Failed, State

from cache.errors import OF_THE_MACHINE, SevilaError, sentence
from cache.store import Store, stores_below
from pipeline.recipe import Recipe, load
from pipeline.sources import Sources
from pipeline.stage import RunContext
from stages.chain import chain_of
from stages.demo import DEMO, places_in
from stages.steps import RunPiece

log = logging.getLogger("sevila")

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
    with _log_of_stages_in_run_log():
        try:
            return work()
        except SevilaError as error:
            return Failed(message=str(error))
        except OSError as error:
            if error.errno not in OF_THE_MACHINE:
                raise
            return Failed(message=sentence(error), name=OF_A_MACHINE)


@contextmanager
def _log_of_stages_in_run_log() -> Iterator[None]:
    handler = APILogHandler()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
