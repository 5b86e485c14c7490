"""A grid of ways to choose keyframes over one recipe, on the same questions: selectors, numbers, scorers, answerers.

Cells share all common work through the store: frames, features and scores are made once, and a cell that the store holds is
read. Each is then held against uniform frames of the same number and answerer by a paired test.
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
OF_A_CELL = ("select_keyframes", *ANSWERING, "evaluate", "evaluate_localization")


@dataclass(frozen=True)
class CellRun:
    """What came of a cell: its metrics, or why it has none.

    Attributes:
        recall_percent: of the true moments, those with a keyframe inside; None where these are not known.
        against_uniform: the paired rows (uniform is A), the headline and each group; none of uniform frames themselves.
    """

    cell: Cell
    metrics: Metrics | None = None
    recall_percent: float | None = None
    against_uniform: Sequence[PairedRow] = ()
    problem: str = ""


def requests_of(request: Request, grid: Grid) -> dict[Cell, Request]:
    """Return what each cell asks for.

    Raises:
        RecipeError: a selector, a scorer, an answerer or a key that there is not; a place of a name that no cell has.
    """
    own = load(request.recipe, STAGES, request.settings, request.seed).config_of("select_keyframes").chosen_by.name
    # Places of the weights or files of one scorer or answerer are of no use to the cells of the others.
    of_cells = {
        cell: replace(request, settings=[*request.settings, *cell.settings_over(own)], shared=True)
        for cell in grid.cells()
    }
    recipes = [
        load(each.recipe, STAGES, each.settings, each.seed) for cell, each in of_cells.items() if cell.k == grid.ks[0]
    ]
    if not request.shared:
        check_names(recipes, request.places)
    return of_cells


def run_sweep(requests: Mapping[Cell, Request], run: RunContext, pin: PinStep) -> Iterator[CellRun]:
    """Yield what comes of each cell as it is done; a cell that cannot be, and says why, stops no other.

    Raises:
        SevilaError: no uniform frames can be answered from, so that there is nothing to compare with; or something is not here.
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
            except InputChangedError:  # keyframes of another cell, which this one does not make again
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
    """Return what pins the steps of a cell; those that it does not share with others have its name, by which reports know it."""

    def pin_step(id: str | None, stage: str, setting: str) -> None:
        pin(id, stage, cell.name if stage in OF_A_CELL else setting)

    return pin_step


def _answering_once(step: Step, first_equal: dict[str, Keyframes]) -> Step:
    """Return a step that answers from equal keyframes once, whichever selectors chose them: from the first cell's artifact."""

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
    steps = Run(recipe, run, pin)
    metrics = forward(recipe, _answering_once(steps, first_equal), sources)
    if not isinstance(metrics, Metrics):
        raise RecipeError(f"recipe {recipe.name!r} asks for moments; one whose questions have options was wanted")
    quality = [artifact for artifact in steps.artifacts if isinstance(artifact, LocalizationMetrics)]
    return metrics, keyframe_row(quality[-1]).moment_recall_percent if quality else None
