"""Common ground of a run and the pieces it hands out: opening a request, and the state that work ends in."""

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
from pipeline.engine.build import Piece
from pipeline.engine.places import KINDS
from pipeline.engine.progress import shown_by
from pipeline.engine.recipe import Recipe
from pipeline.engine.sources import Sources
from pipeline.engine.stage import RunContext
from pipeline.engine.steps import RunPiece
from pipeline.recipes.opening import Request, open_recipe
from stages.all import STAGES
from stages.chain import chain_of
from workers.pages import logs_in_run_log, progress_artifacts

log = logging.getLogger("sevila")

TRIES_OF_A_PIECE = 4  # of a piece whose process dies, and of a step that a machine fails
BACK_OFF_SECONDS = [5.0, 20.0, 60.0]
SETTING = "sevila-setting"  # name of the flow whose runs are the branches of a chain (workers/as_tasks.py)
OF_A_MACHINE = "FailedByMachine"  # name of the state of a piece that another worker, or a later try, may well make

ShowLeft = Callable[[], int]  # shows how many pieces are left, and returns it
# Has pieces of an artifact (its id, their numbers) made by others, counting how often each has failed; not all may be made then.
MakeAll = Callable[[str, list[Piece], Counter[Piece], ShowLeft], None]


def make_piece(artifact: str, piece: Piece, request: dict[str, Any]) -> State[None]:
    """Make one piece of an artifact here, and return the state that this ends in.

    Args:
        artifact: Id of the artifact.
        piece: Number of its shard; None for all that is left of it.
        request: The parameters of the run that asks, which `open_request` takes.
    """

    def work() -> State[None]:
        # Whatever the store remembers is right here, as the artifact's id says what it is made from.
        chosen, run, sources = open_request(**request, remembered=KINDS)
        with run.store.in_use():
            RunPiece(artifact, piece, chosen, run).walk(chain_of(chosen), sources)
        return Completed(message=piece_name(artifact, piece))

    return final_state(work)


def open_request(
    recipe: str,
    settings: Sequence[str],
    seed: int | None,
    places: dict[str, str],
    execution: dict[str, Any],
    remembered: Collection[str] = (),
) -> tuple[Recipe, RunContext, Sources]:
    """Return the recipe, how and where to run it, and its sources, as this machine has them; `remembered` as for `Sources`."""
    if execution["batch_tokens"] is None and execution["dispatch"] != "here":
        # The worker that cuts shards may have no GPU, and those that make them one.
        execution = execution | {"batch_tokens": tokens_suiting("cpu" if execution["device"] == "cpu" else "cuda")}
    store = Store(Path(places["store"] or os.environ.get("SEVILA_STORE", ".sevila")), stores_below())
    request = Request(recipe, settings, seed, {kind: split(places[kind]) for kind in KINDS})
    return open_recipe(request, STAGES, RunContext.of(store, execution), remembered=remembered)


def split(places: str) -> list[str]:
    """Return the places that a parameter names."""
    return [place for place in places.split(os.pathsep) if place]


def final_state(work: Callable[[], State[Any]]) -> State[Any]:
    """Return the state that a flow's work ends in; an error a user can fix is its message, without a traceback."""
    show = progress_artifacts()
    with logs_in_run_log(show), shown_by(show):
        try:
            return work()
        except SevilaError as error:
            return Failed(message=printable(str(error)), name=OF_A_MACHINE if isinstance(error, MachineError) else None)
        except OSError as error:
            if error.errno not in OF_THE_MACHINE:
                raise
            return Failed(message=printable(sentence(error)), name=OF_A_MACHINE)


def piece_name(artifact: str, piece: Piece) -> str:
    """Return what the run of a piece is called."""
    return artifact if piece is None else f"{artifact} {piece}"


def count_failure(name: str, piece: Piece, state: State[Any], tries: Counter[Piece], died: bool) -> None:
    """Raise `SevilaError` for a piece that did not succeed, unless it may if it is handed out again.

    Args:
        name: what it is, for people.
        died: its process was killed, or the like, and nobody else has tried it again.
    """
    tries[piece] += 1
    log.warning("%s: %s: %s", name, state.name, state.message)
    if not (died or state.name == OF_A_MACHINE) or tries[piece] >= TRIES_OF_A_PIECE:
        raise SevilaError(f"{name} {str(state.name).lower()}: {state.message}")
