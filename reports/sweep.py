"""A grid of ways to choose keyframes over one recipe, on the same questions: selectors, numbers, scorers, answerers.

Cells share all common work through the store: frames, features and scores are made once, and a cell that the store holds is
read. Each is then held against uniform frames of the same number and answerer by a paired test.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from cache.errors import MachineError, RecipeError, SevilaError, did_you_mean
from pipeline.engine.recipe import load
from pipeline.engine.stage import RunContext
from pipeline.engine.steps import PinStep, Run
from pipeline.metrics.comparison import PairedRow
from pipeline.recipes.opening import Request, open_recipe
from pipeline.recipes.results import keyframe_row
from pipeline.selection.registry import selector_named, selector_names
from reports.compare import compare
from stages.all import STAGES
from stages.chain import forward
from stages.evaluate import Metrics
from stages.evaluate_localization import LocalizationMetrics

log = logging.getLogger("sevila")

UNIFORM, LOCALIZER = "uniform", "localizer"
OF_A_CELL = ("select_keyframes", "answer_questions", "answer_with_vlm", "evaluate", "evaluate_localization")
ANY = ""  # scorer of a selector that looks at no score


@dataclass(frozen=True)
class Grid:
    """What is swept over; `answerers` are values of `chain.answerer`, `scorers` of `chain.scorer`."""

    selectors: Sequence[str]
    ks: Sequence[int]
    scorers: Sequence[str] = (LOCALIZER,)
    answerers: Sequence[str] = (ANY,)

    def cells(self) -> list[Cell]:
        """Return every cell once, uniform frames of each number first; what looks at no score has no scorer.

        Raises:
            RecipeError: a selector that there is not.
        """
        cells = []
        for selector in dict.fromkeys((UNIFORM, *self.selectors)):
            if selector not in selector_names():
                known = selector_names()
                raise RecipeError(
                    f"no selector {selector!r}{did_you_mean(selector, known)}; there are: {', '.join(known)}"
                )
            scorers = self.scorers if "scores" in selector_named(selector).needs else (ANY,)
            cells += [Cell(selector, k, *rest) for rest in product(scorers, self.answerers) for k in self.ks]
        return list(dict.fromkeys(cells))


@dataclass(frozen=True)
class Cell:
    """One way to choose keyframes and to answer from them."""

    selector: str
    k: int
    scorer: str
    answerer: str

    def settings_over(self, selector: str) -> list[str]:
        """Return the keys that make this cell of a recipe with that selector, whose options no other one has."""
        keyframes = [f"select_keyframes.method={self.selector}"]
        if self.scorer:
            keyframes = ["select_keyframes.method=localizer", f"select_keyframes.selector={self.selector}"]
        keyframes += ["select_keyframes.options={}"] if not self.scorer or self.selector != selector else []
        scorer = [f"chain.scorer={self.scorer}"] if self.scorer else []
        answerer = [f"chain.answerer={self.answerer}"] if self.answerer else []
        return ["chain.kind=forward", *keyframes, f"select_keyframes.k={self.k}", *scorer, *answerer]

    @property
    def baseline(self) -> Cell:
        """Uniform frames of the same number, answered by the same."""
        return replace(self, selector=UNIFORM, scorer=ANY)


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


def run_sweep(request: Request, grid: Grid, run: RunContext, pin: PinStep) -> Iterator[CellRun]:
    """Yield what comes of each cell as it is done; a cell that cannot be, and says why, stops no other.

    Raises:
        SevilaError: uniform frames cannot be answered from, so that there is nothing to compare with.
    """
    # Places of the weights or files of one scorer or answerer are of no use to the cells of the others.
    of_some = set(grid.scorers) != {LOCALIZER} or len(set(grid.answerers)) > 1
    request = replace(request, shared=request.shared or of_some)
    own = load(request.recipe, STAGES, request.settings, request.seed).config_of("select_keyframes").selector
    uniform: dict[Cell, Metrics] = {}
    cells = grid.cells()
    for number, cell in enumerate(cells, start=1):
        log.info("cell %d of %d: %s", number, len(cells), name_of(cell))
        try:
            request_of_cell = replace(request, settings=[*request.settings, *cell.settings_over(own)])
            metrics, recall = _run_cell(request_of_cell, run, _named_after(cell, pin))
        except MachineError:
            raise
        except SevilaError as error:
            if cell.selector == UNIFORM:
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
        pin(id, stage, name_of(cell) if stage in OF_A_CELL else setting)

    return pin_step


def name_of(cell: Cell) -> str:
    """Return a cell for people: `aks by localizer, k = 8`."""
    by = f" by {cell.scorer}" if cell.scorer else ""
    return f"{cell.selector}{by}, k = {cell.k}{f', answered by {cell.answerer}' if cell.answerer else ''}"


def _run_cell(request: Request, run: RunContext, pin: PinStep) -> tuple[Metrics, float | None]:
    recipe, run, sources = open_recipe(request, STAGES, run)
    steps = Run(recipe, run, pin)
    metrics = forward(recipe, steps, sources)
    if not isinstance(metrics, Metrics):
        raise RecipeError(f"recipe {recipe.name!r} asks for moments; one whose questions have options was wanted")
    quality = [artifact for artifact in steps.artifacts if isinstance(artifact, LocalizationMetrics)]
    return metrics, keyframe_row(quality[-1]).moment_recall_percent if quality else None
