"""Rows of the paper's tables, run: from what the store holds, on whatever data and weights are on this machine.

Every row is the chain of a recipe with settings, of which only what its number needs is made; rows share all common work.
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
    """What a row is measured on: a recipe by name or path, and a seed; `is_own`: none of the paper's data sets."""

    recipe: str
    seed: int | None = None
    is_own: bool = False

    @property
    def name(self) -> str:
        """Its recipe's name."""
        return Path(self.recipe).stem

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"


@dataclass(frozen=True)
class RowRun:
    """What came of a row on one subject: its numbers' artifacts, or why it has none.

    Attributes:
        metrics: of stage evaluate, or evaluate_moments.
        localization: how well its keyframes hit the true moments; None where these are not known.
        steps: everything behind `metrics`, in the chain's order.
        missing: sources from outside that are not on this machine.
        problem: why there is no number; empty where there is one.
        run: how and where it ran.
        splits: what its recipe reads.
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
        """Whether it has a number."""
        return not self.problem

    @property
    def answers(self) -> Answers | None:
        """The Answerer's answers behind the number; None where there are none."""
        every = [step.artifact for step in self.steps if isinstance(step.artifact, Answers)]
        return every[-1] if every else None


@dataclass
class Reproduction:
    """Runs rows: `request` says what is changed in every recipe, and where data and weights are.

    Each row is run once a subject, however many tables it stands in; with `plan_only`, none that is not in the store.
    """

    request: Request
    run: RunContext
    plan_only: bool = False
    _runs: dict[tuple[Subject, PaperRow], RowRun] = field(default_factory=dict)

    def row_runs(self, table: PaperTable, subjects: Sequence[Subject]) -> list[list[RowRun]]:
        """Return, for each row of a table, what came of it on each subject; none for a row that stands as published."""
        return [[] if row.unavailable else [self.measure(row, subject) for subject in subjects] for row in table.rows]

    def measure(self, row: PaperRow, subject: Subject) -> RowRun:
        """Return what comes of a row; what cannot be made here is said, and stops no other row."""
        same = row.model_copy(update={"name": "", "published": ()})
        if (subject, same) not in self._runs:
            try:
                self._runs[subject, same] = self._measured_or_missing(row, subject)
            except SevilaError as error:
                self._runs[subject, same] = RowRun(subject, problem=str(error))
        return self._runs[subject, same]

    def _measured_or_missing(self, row: PaperRow, subject: Subject) -> RowRun:
        """Numbers are of what is here; where something is not, a plan says all that is missing."""
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
            places = {kind: given for kind, given in places.items() if kind not in ("annotations", "videos")}
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
            missing = [value for each in (metrics, localization) if each for value in walk.missing(each)]
            steps = walk.needed(metrics)
            is_left = bool(walk.needed(metrics, only_left=True))
            if missing or (self.plan_only and is_left):
                problem = "; ".join(dict.fromkeys(value.problem for value in missing)) or NOT_RUN
                return RowRun(subject, steps=steps, missing=missing, problem=problem, splits=splits_of(recipe))
            log.info("%s: %s", subject.title, row.name)
            for number in filter(None, (metrics, localization)):
                for step in walk.needed(number):  # what is reused is kept from housekeeping too
                    pin(step.artifact.id, step.stage.name, step.setting)
                walk.make(number)
        return RowRun(subject, metrics, localization, steps, run=run, splits=splits_of(recipe))


def _settings(row: PaperRow, subject: Subject) -> list[str]:
    own = [*row.settings, *(row.shapes if subject.is_own else row.of_paper)]
    if row.is_forward:
        return ["chain.kind=forward", *own]
    selectors = list(dict.fromkeys(filter(None, (row.tuned_on, row.keyframes))))
    return ["chain.kind=full", f"chain.selectors={selectors}", *own]


def _evaluated(row: PaperRow) -> dict[str, dict[str, Any]]:
    changes: dict[str, dict[str, Any]] = {}
    for stage, key, value in map(parse_setting, row.evaluated):
        changes.setdefault(stage, {})[key] = value
    return changes


def _walked(row: PaperRow, recipe: Recipe, walk: Deferred, sources: Sources) -> tuple[Artifact, Artifact | None]:
    """Walk the row's chain; return the handles of its evaluation and of its keyframes' quality."""
    chain = chain_of(recipe)
    results = chain(recipe, walk, sources)
    if not isinstance(results, Results):
        return results, None
    last_round = recipe.chain.iterations if row.keyframes == "refined" else 0
    choice = Choice(row.keyframes, last_round)
    if row.tuned_on:  # walked once more, with the Answerer of other keyframes
        other = walk.step_of("finetune_answerer", Choice(row.tuned_on).name).artifact
        walk.given["finetune_answerer", choice.name] = other
        results = chain(recipe, walk, sources)
        assert isinstance(results, Results)
    setting = results.settings_by_cell()[choice.name, row.answered]
    return setting.metrics, setting.localization
