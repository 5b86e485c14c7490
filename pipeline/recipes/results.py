"""What a full chain returns: every setting that was evaluated, the pseudo-labels and the trainings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, get_args

from pipeline.engine.recipe import Selector
from pipeline.engine.stage import Artifact
from pipeline.metrics.accuracy import AccuracyRow

NAMES: dict[str, str] = {
    "uniform": "uniform",
    "random": "random",
    "untrained": "untrained Localizer",
    "pretrained": "pre-trained Localizer",
    "refined": "refined Localizer",
    "oracle": "oracle",
}
Who = Literal["zero-shot", "fine-tuned"]
Method = Literal["concatenate", "vote"]
Column = Literal["zero-shot", "zero-shot, voting", "fine-tuned", "moment recall", "hit"]


def row_name(selector: Selector, iteration: int) -> str:
    """The name of the table's row for a choice of keyframes."""
    return NAMES[selector] + (f", round {iteration}" if iteration > 1 else "")


@dataclass(frozen=True)
class Setting:
    """One evaluated way to answer the questions.

    Attributes:
        selector: who chose the keyframes.
        iteration: round of self-refinement that the Localizer comes from, from 1; 0 where it is not a refined one.
        answerer: as it came, or trained on keyframes of the same selector.
        method: keyframes read together, or each alone and the majority taken.
        localization: how well these keyframes hit the true moments; None where nobody knows them.
    """

    selector: Selector
    iteration: int
    answerer: Who
    method: Method
    metrics: Artifact
    localization: Artifact | None

    @property
    def row(self) -> str:
        """The name of the table's row that shows this setting's accuracy."""
        return row_name(self.selector, self.iteration)

    @property
    def column(self) -> Column:
        """The column of the table that shows this setting's accuracy."""
        if self.answerer == "fine-tuned":
            return "fine-tuned"
        return "zero-shot, voting" if self.method == "vote" else "zero-shot"

    def accuracy(self) -> AccuracyRow:
        """Return the headline row of the metrics."""
        return next(AccuracyRow(**row) for row in self.metrics.rows("metrics") if row["is_headline"])


@dataclass(frozen=True)
class Training:
    """Weights that the chain has trained; `what` tells them apart for people."""

    what: str
    weights: Artifact


class Labels(Protocol):
    """Pseudo-labels as an artifact."""

    id: str | None

    def text(self) -> str:
        """Return what they hold, in words."""


@dataclass(frozen=True)
class Results:
    """What a full chain returns; `labels` are those of each round of self-refinement."""

    questions: Artifact
    settings: Sequence[Setting]
    labels: Sequence[Labels]
    trainings: Sequence[Training]

    def rows(self) -> list[str]:
        """The names of the table's rows, in its order: who chose the keyframes."""
        order = list(get_args(Selector))
        places = sorted({(order.index(setting.selector), setting.iteration) for setting in self.settings})
        return [row_name(order[place], iteration) for place, iteration in places]

    def settings_by_cell(self) -> dict[tuple[str, Column], Setting]:
        """Return each setting under its row and column."""
        return {(setting.row, setting.column): setting for setting in self.settings}

    @cached_property
    def values(self) -> dict[tuple[str, Column], float]:
        """Return every number of the table, in percent, by row and column; without those that have nothing behind them."""
        found: dict[tuple[str, Column], float | None] = {}
        for setting in self.settings:
            found[setting.row, setting.column] = setting.accuracy().accuracy_percent
            if setting.localization is not None:
                keyframes = keyframe_quality(setting.localization)
                found[setting.row, "moment recall"] = keyframes["moment_recall_percent"]
                found[setting.row, "hit"] = keyframes["hit_percent"]
        return {cell: value for cell, value in found.items() if value is not None}


def keyframe_quality(localization: Artifact) -> dict[str, Any]:
    """Return how well the keyframes hit the true moments, a row of the table `localization`."""
    return next(row for row in localization.rows("localization") if row["source"] == "keyframes")
