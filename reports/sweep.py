"""Run a grid of selectors, numbers of keyframes, scorers and answerers over one recipe, on the same questions.

Cells share frames, features and scores through the store, and completed cells are read from it. Each cell is compared with
uniform frames of the same number and answerer by a paired test.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cache.errors import InputChangedError, MachineError, MissingSourceError, RecipeError, SevilaError
from pipeline.engine.recipe import load
from pipeline.engine.stage import Produced, RunContext, Stage
from pipeline.engine.steps import PinStep, Run, Step
from pipeline.metrics.comparison import PairedRow
from pipeline.recipes.checks import check_names
from pipeline.recipes.opening import Request, open_recipe
from pipeline.recipes.results import keyframe_row
from reports.compare import compare
from reports.sweep_grid import UNIFORM, Cell, Grid
from stages.all import STAGES
from stages.chain import forward
from stages.evaluate import Metrics
from stages.evaluate_localization import LocalizationMetrics
from stages.select_keyframes import Keyframes

log = logging.getLogger("sevila")

ANSWERING = ("answer_questions", "answer_with_vlm")
CELL_STAGES = ("select_keyframes", *ANSWERING, "evaluate", "evaluate_localization")


@dataclass(frozen=True)
class CellRun:
    """A cell that was run: its metrics, or the problem why it has none.

    Attributes:
        recall_percent: Percentage of true moments that contain a keyframe; None if the moments are not known.
        against_uniform: Paired rows (A is uniform) for the headline and each group; empty for uniform frames.
    """

    cell: Cell
    metrics: Metrics | None = None
    recall_percent: float | None = None
    against_uniform: Sequence[PairedRow] = ()
    problem: str = ""


def requests_of(request: Request, grid: Grid) -> dict[Cell, Request]:
    """Return the request of each cell.

    Raises:
        RecipeError: A selector, scorer, answerer or key is unknown, or a place has a name that no cell uses.
    """
    recipe = load(request.recipe, STAGES, request.settings, request.seed)
    selector = recipe.config_of("select_keyframes").chosen_by.name
    # Places of one scorer or answerer are unused in the cells of the others, hence `shared`; names are checked below.
    requests = {
        cell: replace(request, settings=[*request.settings, *cell.settings_over(selector)], shared=True)
        for cell in grid.cells()
    }
    if not request.shared:
        settings = [cell_request.settings for cell, cell_request in requests.items() if cell.k == grid.ks[0]]
        check_names([load(request.recipe, STAGES, keys, request.seed) for keys in settings], request.places)
    return requests


def run_sweep(requests: Mapping[Cell, Request], run: RunContext, pin: PinStep) -> Iterator[CellRun]:
    """Yield each cell after it was run; a cell that fails does not stop the others.

    Raises:
        SevilaError: All cells of uniform frames fail, so that there is nothing to compare with; or a source is missing.
    """
    first_equal: dict[str, Keyframes] = {}
    uniform: dict[Cell, Metrics] = {}
    failed: dict[Cell, SevilaError] = {}
    n_uniform = sum(cell.selector == UNIFORM for cell in requests)
    for number, (cell, request) in enumerate(requests.items(), start=1):
        if cell.baseline in failed:
            yield CellRun(cell, problem=f"nothing to compare with: {cell.baseline.name} has no numbers")
            continue
        log.info("cell %d of %d: %s", number, len(requests), cell.name)
        try:
            try:
                metrics, recall = _run_cell(request, run, _named_after(cell, pin), first_equal)
            except InputChangedError:  # the shared keyframes of another cell have changed: use this cell's own
                first_equal.clear()
                metrics, recall = _run_cell(request, run, _named_after(cell, pin), first_equal)
        except MachineError:
            raise
        except SevilaError as error:
            if cell.selector == UNIFORM:
                failed[cell] = error
                if isinstance(error, MissingSourceError) or len(failed) == n_uniform:
                    raise
            yield CellRun(cell, problem=str(error))
            continue
        if cell.selector == UNIFORM:
            uniform[cell] = metrics
            yield CellRun(cell, metrics, recall)
        else:
            rows = compare(run.store, str(uniform[cell.baseline].id), str(metrics.id)).rows
            yield CellRun(cell, metrics, recall, rows)


def _named_after(cell: Cell, pin: PinStep) -> PinStep:
    """Return a function that pins the steps of a cell, those of `CELL_STAGES` under its name, by which reports identify it."""

    def pin_step(id: str | None, stage: str, setting: str) -> None:
        pin(id, stage, cell.name if stage in CELL_STAGES else setting)

    return pin_step


def _answering_once(step: Step, first_equal: dict[str, Keyframes]) -> Step:
    """Return a step that replaces keyframes by the first artifact with the same frames, so that they are answered only once."""

    def answer(stage: Stage[Produced], /, *inputs: Any, setting: str = "", **changes: Any) -> Produced:
        if stage.name in ANSWERING:
            inputs = tuple(
                first_equal.setdefault(value.frames_digest(), value) if isinstance(value, Keyframes) else value
                for value in inputs
            )
        return step(stage, *inputs, setting=setting, **changes)

    return answer


def _run_cell(
    request: Request, run: RunContext, pin: PinStep, first_equal: dict[str, Keyframes]
) -> tuple[Metrics, float | None]:
    recipe, run, sources = open_recipe(request, STAGES, run)
    steps = Run(recipe, run, pin, chain=forward)
    metrics = forward(recipe, _answering_once(steps, first_equal), sources)
    if not isinstance(metrics, Metrics):
        raise RecipeError(f"recipe {recipe.name!r} retrieves moments; expected one whose questions have options")
    localizations = [artifact for artifact in steps.artifacts if isinstance(artifact, LocalizationMetrics)]
    return metrics, keyframe_row(localizations[-1]).moment_recall_percent if localizations else None
