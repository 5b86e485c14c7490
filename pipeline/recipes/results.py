"""The results of a full chain: every setting that was evaluated, the pseudo-labels and the trainings."""

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
    """A way to choose keyframes: a selector and, of the refined Localizer, the round that it comes from, from 1; else 0."""

    selector: str
    iteration: int = 0

    @property
    def name(self) -> str:
        """The name of the table's row for these keyframes."""
        return BY_SCORES.get(self.selector, self.selector) + (f", round {self.iteration}" if self.iteration > 1 else "")

    @property
    def round(self) -> str:
        """The round of self-refinement, for people."""
        return f"round {self.iteration}"

    @property
    def is_scored(self) -> bool:
        """Whether the keyframes are those that a Localizer, or a selector trained on answers, scores highest."""
        return self.selector in BY_SCORES

    @property
    def is_trained_selector(self) -> bool:
        """Whether a selector trained on answers alone scores the frames."""
        return self.selector in TRAINED_SELECTORS

    @property
    def changes(self) -> dict[str, Any]:
        """Config keys of the selection."""
        # Where nothing is drawn, another seed of the recipe must not make the same keyframes again.
        if self.is_scored:
            return {"method": "localizer", "seed": 0}
        seed = {} if "rng" in selector_named(self.selector).needs else {"seed": 0}
        return {"method": self.selector, "selector": "top_k", "options": {}, **seed}

    @property
    def zero_shot(self) -> tuple[Way, Way]:
        """The ways to answer that train nothing."""
        return Way(self, "zero-shot", "concatenate"), Way(self, "zero-shot", "vote")

    @property
    def tuned(self) -> Way:
        """The way to answer of the Answerer that was fine-tuned on such keyframes."""
        return Way(self, "fine-tuned", "concatenate")


UNTRAINED, PRETRAINED = Choice("untrained"), Choice("pretrained")


class Picked(NamedTuple):
    """The keyframes of a choice, and the scores that they were chosen by, if any."""

    scores: Artifact | None
    keyframes: Artifact


def baselines(chain: Chain) -> list[Choice]:
    """Return the selectors to compare that look at no score: baselines and upper bounds."""
    return [Choice(selector) for selector in chain.selectors if selector not in BY_SCORES]


def learned(chain: Chain) -> list[Choice]:
    """Return the selectors to compare that are trained on answers alone."""
    return [choice for choice in map(Choice, chain.selectors) if choice.is_trained_selector]


def refinements(chain: Chain) -> list[Choice]:
    """Return the refined Localizer of each round of self-refinement; none where it is not compared."""
    return [Choice("refined", round) for round in range(1, chain.iterations + 1) if "refined" in chain.selectors]


@dataclass(frozen=True)
class Way:
    """One way to answer the questions.

    Attributes:
        choice: who chose the keyframes.
        answerer: as it came, or trained on keyframes of the same choice.
        method: keyframes read together, or each alone and the majority taken.
    """

    choice: Choice
    answerer: Who
    method: Method

    @property
    def name(self) -> str:
        """Its name among the chain's ways, for people."""
        return f"{self.choice.name}, {self.column}"

    @property
    def column(self) -> Column:
        """The column of the table that shows its accuracy."""
        if self.answerer == "fine-tuned":
            return "fine-tuned"
        return "zero-shot, voting" if self.method == "vote" else "zero-shot"


@dataclass(frozen=True)
class Setting:
    """A way to answer, evaluated.

    Attributes:
        metrics: the artifact of stage evaluate, whose class is not known down here.
        localization: how well its keyframes hit the true moments; None where these are not known.
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
    """Weights that the chain has trained; `what` says which, for people."""

    what: str
    weights: Artifact


class RoundLabels(Protocol):
    """Pseudo-labels as an artifact."""

    id: str | None

    def text(self) -> str:
        """Return what they hold, in words."""


class EvaluatedRow(NamedTuple):
    """A row of the table: the Answerer that was fine-tuned on its keyframes, and each way to answer that was evaluated."""

    choice: Choice
    answerer: Artifact
    settings: list[Setting]


@dataclass
class Results:
    """The results of a full chain; `labels` are those of each round of self-refinement."""

    questions: Artifact
    labels: list[RoundLabels] = field(default_factory=list)
    _parts: list[TrainedWeights | Future[EvaluatedRow]] = field(default_factory=list)

    def trained(self, what: str, weights: Artifact) -> None:
        """Take weights in."""
        self._parts.append(TrainedWeights(what, weights))

    def refined(self, choice: Choice, labels: RoundLabels, weights: Artifact) -> None:
        """Take a round of self-refinement in."""
        self.labels.append(labels)
        self.trained(f"Localizer, refined in {choice.round}", weights)

    def add(self, row: Future[EvaluatedRow]) -> Future[EvaluatedRow]:
        """Take a row in, which may be at work, and return it."""
        self._parts.append(row)
        return row

    @cached_property
    def settings(self) -> list[Setting]:
        """Every way to answer that was evaluated, in the chain's order; waits for those that are at work."""
        rows = [part.result() for part in self._parts if not isinstance(part, TrainedWeights)]
        return [setting for row in rows for setting in row.settings]

    @property
    def trainings(self) -> list[TrainedWeights]:
        """All weights that were trained, in the chain's order."""
        return [part if isinstance(part, TrainedWeights) else _tuned(part.result()) for part in self._parts]

    def rows(self) -> list[str]:
        """The names of the table's rows, in its order: who chose the keyframes."""
        return [choice.name for choice in sorted({setting.way.choice: None for setting in self.settings}, key=_place)]

    def settings_by_cell(self) -> dict[tuple[str, Column], Setting]:
        """Return each setting under its row and column."""
        return {(setting.row, setting.column): setting for setting in self.settings}

    @cached_property
    def values(self) -> dict[tuple[str, Column], float]:
        """Return every number of the table, in percent, by row and column; without those that have nothing behind them."""
        cells: dict[tuple[str, Column], float | None] = {}
        for setting in self.settings:
            cells[setting.row, setting.column] = setting.metrics.headline().accuracy_percent
            if setting.localization is not None:
                keyframes = keyframe_row(setting.localization)
                cells[setting.row, "moment recall"] = keyframes.moment_recall_percent
                cells[setting.row, "hit"] = keyframes.hit_percent
        return {cell: value for cell, value in cells.items() if value is not None}


class Setup(NamedTuple):
    """The common ground of all settings that are compared.

    Attributes:
        test: answered, and never trained on.
        train: whose keyframes the Answerer is fine-tuned on.
        answerer: as released; its answers are the zero-shot ones.
    """

    test: SplitArtifacts
    train: SplitArtifacts
    answerer: Artifact | None


def _tuned(row: EvaluatedRow) -> TrainedWeights:
    return TrainedWeights(f"Answerer, {row.choice.name}", row.answerer)


def _place(choice: Choice) -> tuple[int, int]:
    """Where the row of a choice stands: selectors as they came, then Localizers, then upper bounds."""
    if choice.is_trained_selector:
        return 0, 0
    if choice.is_scored:
        return 1 + list(LOCALIZERS).index(choice.selector), choice.iteration
    return (1 + len(LOCALIZERS) if "moments" in selector_named(choice.selector).needs else 0), 0


def keyframe_row(localization: Artifact) -> LocalizationRow:
    """Return how well the keyframes hit the true moments."""
    return next(row for row in localization.typed_rows("localization", LocalizationRow) if row.source == "keyframes")
