"""Run the rows of the paper's tables on the data and weights of this machine.

Each row is the chain of a recipe with settings. Only the artifacts that its number needs are built, and rows share them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cache.errors import MissingSourceError, SevilaError
from pipeline.engine.deferred import Deferred, DeferredStep
from pipeline.engine.places import KINDS
from pipeline.engine.progress import quiet
from pipeline.engine.recipe import Recipe, parse_setting
from pipeline.engine.sources import Sources
from pipeline.engine.stage import Artifact, RunContext
from pipeline.engine.steps import Run
from pipeline.recipes.opening import Request, open_recipe
from pipeline.recipes.requirements import Splits, splits_of
from pipeline.recipes.results import Choice, Results
from pipeline.shapes.demo import brings_data
from reports.named_runs import pinned
from reports.paper import PaperRow, PaperTable
from stages.all import STAGES
from stages.answer_questions import Answers
from stages.chain import chain_of

log = logging.getLogger("sevila")

NOT_RUN = "was not run"


@dataclass(frozen=True)
class Subject:
    """The recipe (name or path) and seed that a row is measured on; `is_own`: a data set that the paper does not use."""

    recipe: str
    seed: int | None = None
    is_own: bool = False

    @property
    def name(self) -> str:
        """The name of the recipe."""
        return Path(self.recipe).stem

    @property
    def title(self) -> str:
        """The name with the seed, for display."""
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"


@dataclass(frozen=True)
class RowRun:
    """A row that was run on one subject: the artifacts of its numbers, or why it has none.

    Attributes:
        metrics: Artifact of evaluate or evaluate_moments.
        localization: Localization metrics of its keyframes; None if the true moments are not known.
        steps: The steps that `metrics` depends on, in the chain's order.
        missing: External sources that are not on this machine.
        problem: The reason why there is no number; empty if there is one.
        run: The context in which it ran.
        splits: The splits that its recipe reads.
    """

    subject: Subject
    metrics: Artifact | None = None
    localization: Artifact | None = None
    steps: Sequence[DeferredStep] = ()
    missing: Sequence[Any] = ()
    problem: str = ""
    run: RunContext | None = None
    splits: Splits | None = None

    @property
    def is_measured(self) -> bool:
        """Whether the run has a number."""
        return not self.problem

    @property
    def answers(self) -> Answers | None:
        """The answers that the number is computed from; None if there are none."""
        answers = [step.artifact for step in self.steps if isinstance(step.artifact, Answers)]
        return answers[-1] if answers else None


@dataclass
class Reproduction:
    """Runs rows; `request` holds the settings common to all recipes, and the places of data and weights.

    A row that occurs in several tables runs once per subject. With `plan_only`, only rows in the store have numbers.
    """

    request: Request
    run: RunContext
    plan_only: bool = False
    _runs: dict[tuple[Subject, PaperRow], RowRun] = field(default_factory=dict)

    def row_runs(self, table: PaperTable, subjects: Sequence[Subject]) -> list[list[RowRun]]:
        """Return the runs of each row of a table, one per subject; none for an unavailable row."""
        return [[] if row.unavailable else [self.measure(row, subject) for subject in subjects] for row in table.rows]

    def measure(self, row: PaperRow, subject: Subject) -> RowRun:
        """Return the run of a row; an error becomes its problem and does not stop other rows."""
        key = subject, row.model_copy(update={"name": "", "published": ()})
        if key not in self._runs:
            try:
                self._runs[key] = self._measured_or_missing(row, subject)
            except SevilaError as error:
                self._runs[key] = RowRun(subject, problem=str(error))
        return self._runs[key]

    def _measured_or_missing(self, row: PaperRow, subject: Subject) -> RowRun:
        """Measure a row; if a source is missing, plan the row instead, which lists all that are missing."""
        if self.plan_only:
            return self._measure(row, subject)
        try:
            return self._measure(row, subject)
        except MissingSourceError as error:
            planned = replace(self, plan_only=True)._measure(row, subject)
            return planned if planned.problem else RowRun(subject, problem=str(error))

    def _measure(self, row: PaperRow, subject: Subject) -> RowRun:
        places = self.request.places
        if brings_data(subject.recipe):
            places = {kind: paths for kind, paths in places.items() if kind not in ("annotations", "videos")}
        request = replace(
            self.request,
            recipe=subject.recipe,
            seed=subject.seed,
            settings=[*self.request.settings, *_settings(row, subject)],
            places=places,
            shared=True,
        )
        remembered = KINDS if self.plan_only else ()
        with quiet(logging.ERROR):
            recipe, run, sources = open_recipe(request, STAGES, self.run, remembered=remembered)
        seeds = [] if subject.seed is None else [subject.seed]
        with pinned(run.store, "", recipe, seeds) as pin:
            walk = Deferred(recipe, run, Run(recipe, run, pin), _evaluated(row))
            with quiet(logging.ERROR):
                metrics, localization = _walked(row, recipe, walk, sources)
            needed = [artifact for artifact in (metrics, localization) if artifact]
            missing = [source for artifact in needed for source in walk.missing(artifact)]
            steps = walk.needed(metrics)
            if missing or (self.plan_only and walk.needed(metrics, only_left=True)):
                problem = "; ".join(dict.fromkeys(source.problem for source in missing)) or NOT_RUN
                return RowRun(subject, steps=steps, missing=missing, problem=problem, splits=splits_of(recipe))
            log.info("%s: %s", subject.title, row.name)
            for artifact in needed:
                for step in walk.needed(artifact):  # also those in the store, so that `cache gc` keeps them
                    pin(step.artifact.id, step.stage.name, step.setting)
                walk.make(artifact)
        return RowRun(subject, metrics, localization, steps, run=run, splits=splits_of(recipe))


def _settings(row: PaperRow, subject: Subject) -> list[str]:
    settings = [*row.settings, *(row.shapes if subject.is_own else row.of_paper)]
    if row.is_forward:
        return ["chain.kind=forward", *settings]
    selectors = list(dict.fromkeys(filter(None, (row.tuned_on, row.keyframes))))
    return ["chain.kind=full", f"chain.selectors={selectors}", *settings]


def _evaluated(row: PaperRow) -> dict[str, dict[str, Any]]:
    changes: dict[str, dict[str, Any]] = {}
    for stage, key, value in map(parse_setting, row.evaluated):
        changes.setdefault(stage, {})[key] = value
    return changes


def _walked(row: PaperRow, recipe: Recipe, walk: Deferred, sources: Sources) -> tuple[Artifact, Artifact | None]:
    """Walk the row's chain; return the handles of its metrics and of its localization metrics."""
    chain = chain_of(recipe)
    results = chain(recipe, walk, sources)
    if not isinstance(results, Results):
        return results, None
    last_round = recipe.chain.iterations if row.keyframes == "refined" else 0
    choice = Choice(row.keyframes, last_round)
    if row.tuned_on:  # walk again with the Answerer that was fine-tuned on other keyframes
        answerer = walk.step_of("finetune_answerer", Choice(row.tuned_on).name).artifact
        walk.replacements["finetune_answerer", choice.name] = answerer
        results = chain(recipe, walk, sources)
        assert isinstance(results, Results)
    setting = results.settings_by_cell()[choice.name, row.answered]
    return setting.metrics, setting.localization
