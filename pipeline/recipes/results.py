"""The results of a full chain: every evaluated setting, the pseudo-labels and the trained weights."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

from pipeline.engine.recipe import BY_SCORES, LOCALIZERS, TRAINED_SELECTORS, Chain
from pipeline.engine.stage import Artifact
from pipeline.metrics.localization_metrics import LocalizationRow
from pipeline.recipes.requirements import SplitArtifacts
from pipeline.selection.registry import selector_named

Who = Literal["zero-shot", "fine-tuned"]
Method = Literal["concatenate", "vote"]
Column = Literal["zero-shot", "zero-shot, voting", "fine-tuned", "moment recall", "hit"]


@dataclass(frozen=True)
class Choice:
    """A way to choose keyframes: a selector and, for the refined Localizer, its round from 1; 0 for others."""

    selector: str
    iteration: int = 0

    @property
    def name(self) -> str:
        """The name of the table's row for these keyframes."""
        return BY_SCORES.get(self.selector, self.selector) + (f", round {self.iteration}" if self.iteration > 1 else "")

    @property
    def round(self) -> str:
        """The name of the round of self-refinement."""
        return f"round {self.iteration}"

    @property
    def is_scored(self) -> bool:
        """Whether the keyframes have the highest scores of a Localizer or of a selector trained on answers."""
        return self.selector in BY_SCORES

    @property
    def is_trained_selector(self) -> bool:
        """Whether a selector trained on answers alone scores the frames."""
        return self.selector in TRAINED_SELECTORS

    @property
    def changes(self) -> dict[str, Any]:
        """The config keys of `select_keyframes` for this choice."""
        # A selector without randomness gets seed 0, so that recipes with different seeds share its keyframes.
        if self.is_scored:
            return {"method": "localizer", "seed": 0}
        seed = {} if "rng" in selector_named(self.selector).needs else {"seed": 0}
        return {"method": self.selector, "selector": "top_k", "options": {}, **seed}

    @property
    def zero_shot(self) -> tuple[Way, Way]:
        """The ways to answer without training."""
        return Way(self, "zero-shot", "concatenate"), Way(self, "zero-shot", "vote")

    @property
    def tuned(self) -> Way:
        """The way to answer with the Answerer fine-tuned on these keyframes."""
        return Way(self, "fine-tuned", "concatenate")


UNTRAINED, PRETRAINED = Choice("untrained"), Choice("pretrained")


class ChosenKeyframes(NamedTuple):
    """The keyframes of a choice, and the scores that selected them, if any."""

    scores: Artifact | None
    keyframes: Artifact


def baselines(chain: Chain) -> list[Choice]:
    """Return the selectors to compare that use no scores: baselines and upper bounds."""
    return [Choice(selector) for selector in chain.selectors if selector not in BY_SCORES]


def learned(chain: Chain) -> list[Choice]:
    """Return the selectors to compare that are trained on answers alone."""
    return [choice for choice in map(Choice, chain.selectors) if choice.is_trained_selector]


def refinements(chain: Chain) -> list[Choice]:
    """Return the refined Localizer of each round of self-refinement; empty if it is not compared."""
    return [Choice("refined", round) for round in range(1, chain.iterations + 1) if "refined" in chain.selectors]


@dataclass(frozen=True)
class Way:
    """One way to answer the questions.

    Attributes:
        choice: the way the keyframes are chosen.
        answerer: as released, or fine-tuned on keyframes of the same choice.
        method: keyframes read together, or each alone with a majority vote.
    """

    choice: Choice
    answerer: Who
    method: Method

    @property
    def name(self) -> str:
        """The name in plans and logs."""
        return f"{self.choice.name}, {self.column}"

    @property
    def column(self) -> Column:
        """The column of the table that shows its accuracy."""
        if self.answerer == "fine-tuned":
            return "fine-tuned"
        return "zero-shot, voting" if self.method == "vote" else "zero-shot"


@dataclass(frozen=True)
class Setting:
    """An evaluated way to answer.

    Attributes:
        way: the way.
        metrics: the artifact of the stage evaluate, whose class this room may not import.
        localization: the localisation metrics of its keyframes; None if the true moments are not known.
    """

    way: Way
    metrics: Any
    localization: Artifact | None

    @property
    def row(self) -> str:
        """The name of the table's row that shows this setting's accuracy."""
        return self.way.choice.name

    @property
    def column(self) -> Column:
        """The column of the table that shows this setting's accuracy."""
        return self.way.column


@dataclass(frozen=True)
class TrainedWeights:
    """Weights trained by the chain, and a description of them."""

    title: str
    weights: Artifact


class RoundLabels(Protocol):
    """Pseudo-labels as an artifact."""

    id: str | None

    def text(self) -> str:
        """Return a summary."""


class EvaluatedRow(NamedTuple):
    """A row of the table: the Answerer fine-tuned on its keyframes, and the evaluated ways to answer."""

    choice: Choice
    answerer: Artifact
    settings: list[Setting]


@dataclass
class Results:
    """The results of a full chain; `labels` are those of each round of self-refinement."""

    questions: Artifact
    labels: list[RoundLabels] = field(default_factory=list)
    _parts: list[TrainedWeights | Future[EvaluatedRow]] = field(default_factory=list)

    def trained(self, title: str, weights: Artifact) -> None:
        """Add trained weights, described by `title`."""
        self._parts.append(TrainedWeights(title, weights))

    def refined(self, choice: Choice, labels: RoundLabels, weights: Artifact) -> None:
        """Add a round of self-refinement."""
        self.labels.append(labels)
        self.trained(f"Localizer, refined in {choice.round}", weights)

    def add(self, row: Future[EvaluatedRow]) -> Future[EvaluatedRow]:
        """Add a row, which may still be running, and return it."""
        self._parts.append(row)
        return row

    @cached_property
    def settings(self) -> list[Setting]:
        """All evaluated ways to answer, in the chain's order; waits for running rows."""
        rows = [part.result() for part in self._parts if not isinstance(part, TrainedWeights)]
        return [setting for row in rows for setting in row.settings]

    @property
    def trainings(self) -> list[TrainedWeights]:
        """All trained weights, in the chain's order; waits for running rows."""
        return [part if isinstance(part, TrainedWeights) else _answerer_of(part.result()) for part in self._parts]

    def rows(self) -> list[str]:
        """Return the names of the table's rows, its choices of keyframes, in order."""
        choices = dict.fromkeys(setting.way.choice for setting in self.settings)
        return [choice.name for choice in sorted(choices, key=_row_order)]

    def settings_by_cell(self) -> dict[tuple[str, Column], Setting]:
        """Return each setting by row and column."""
        return {(setting.row, setting.column): setting for setting in self.settings}

    @cached_property
    def values(self) -> dict[tuple[str, Column], float]:
        """The table's numbers, in percent, by row and column, without undefined ones."""
        cells: dict[tuple[str, Column], float | None] = {}
        for setting in self.settings:
            cells[setting.row, setting.column] = setting.metrics.headline().accuracy_percent
            if setting.localization is not None:
                keyframes = keyframe_row(setting.localization)
                cells[setting.row, "moment recall"] = keyframes.moment_recall_percent
                cells[setting.row, "hit"] = keyframes.hit_percent
        return {cell: value for cell, value in cells.items() if value is not None}


class Setup(NamedTuple):
    """The artifacts that all compared settings share.

    Attributes:
        test: evaluated, never used for training.
        train: for fine-tuning of the Answerer on keyframes.
        answerer: as released, for zero-shot answers.
    """

    test: SplitArtifacts
    train: SplitArtifacts
    answerer: Artifact | None


def _answerer_of(row: EvaluatedRow) -> TrainedWeights:
    return TrainedWeights(f"Answerer, {row.choice.name}", row.answerer)


def _row_order(choice: Choice) -> tuple[int, int]:
    """Return the sort key of a choice's row: selectors in the recipe's order, then Localizers, then upper bounds."""
    if choice.is_trained_selector:
        return 0, 0
    if choice.is_scored:
        return 1 + list(LOCALIZERS).index(choice.selector), choice.iteration
    return (1 + len(LOCALIZERS) if "moments" in selector_named(choice.selector).needs else 0), 0


def keyframe_row(localization: Artifact) -> LocalizationRow:
    """Return the localisation metrics of the chosen keyframes."""
    return next(row for row in localization.typed_rows("localization", LocalizationRow) if row.source == "keyframes")
