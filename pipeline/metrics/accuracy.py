"""Accuracy of answers: the headline of the data set, its groups, its question types.

The denominator is stated and never adjusted: every question with a known answer counts, and an unanswered one (because its
video could not be read, for example) counts as wrong.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.adapter import Headline
from pipeline.metrics.resampling import BY_VIDEO, CONFIDENCE, Resampling, percentile_interval, resampled_ratios
from pipeline.reasons import Reason
from pipeline.text_table import Table, aligned, or_dash

Scope = Literal["overall", "mean_of_groups", "group", "type", "pooled"]
INDENTS = {"overall": "", "mean_of_groups": "", "group": "  ", "pooled": "  ", "type": "    "}


class Answered(NamedTuple):
    """The answer to a question; `prediction` is None if there is none, and `reason` states why."""

    question_id: str
    video_id: str
    reason: Reason
    prediction: int | None


class AnswerRow(NamedTuple):
    """The answer to a question; a row of the table `answers`."""

    question_id: str
    video_id: str
    status: str  # ok or failed
    reason: Reason
    prediction: int | None = None  # index of the chosen option; null when failed
    # Raw logits of the letters; with readout text the summed log-probabilities of the option's tokens, </s> included; with
    # text_per_token their mean. With voting the mean over the frames.
    option_logits: Sequence[float] | np.ndarray = ()
    votes: Sequence[int] = ()  # frames that chose each option; empty when frames are concatenated
    # The greedy first token, normally the word "Option"; null when failed or voting, or with a readout of texts.
    first_token_id: int | None = None
    n_frames: int = 0  # used for the answer
    truncated: bool = False  # the question's text exceeded the model's maximum length


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question and its prediction; `answer_index` None: not known, `prediction` None: not answered."""

    answer_index: int | None
    prediction: int | None
    video_id: str = ""
    question_type: str = ""
    group: str = ""

    @property
    def correct(self) -> bool:
        """Whether the correct option is known and was chosen."""
        return self.answer_index is not None and self.answer_index == self.prediction


@dataclass(frozen=True)
class Reporting:
    """How a data set reports accuracy: its headline, and additional rows with the question types they pool."""

    headline: Headline = "overall"
    pooled_types: Mapping[str, Collection[str]] = field(default_factory=dict)


OVERALL = Reporting()


@dataclass(frozen=True)
class AccuracyRow:
    """One line of the accuracy table. Percentages are None where `n_questions` is 0.

    `bootstrap_*` is the 95 % percentile interval, None where fewer than two videos (or questions) support it. `wilson_*` is
    Wilson's 95 % interval, which assumes independent questions but is also valid for small counts and near 0 and 100 %; None
    for a mean of groups, to which it does not apply.
    """

    scope: Scope  # pooled: several types, as the data set itself reports them
    name: str  # of the type or group
    is_headline: bool  # whether this is the number by which the data set is compared
    n_questions: int  # with a known answer
    n_correct: int  # of n_questions
    n_unanswered: int  # of n_questions; they count as wrong
    n_unlabelled: int  # without a known answer; in no percentage
    accuracy_percent: float | None  # n_correct of n_questions
    bootstrap_low_percent: float | None  # of the 95 % interval by resampling
    bootstrap_high_percent: float | None  # likewise
    wilson_low_percent: float | None  # of Wilson's 95 % interval
    wilson_high_percent: float | None  # likewise
    unanswered_percent: float | None  # n_unanswered of n_questions

    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % bootstrap interval, or Wilson's if there are too few videos for it; None if there is neither."""
        for low, high in (
            (self.bootstrap_low_percent, self.bootstrap_high_percent),
            (self.wilson_low_percent, self.wilson_high_percent),
        ):
            if low is not None and high is not None:
                return low, high
        return None


@dataclass(frozen=True)
class Subset:
    """Questions reported together: `members` is a mask over all questions."""

    scope: Scope
    name: str
    members: NDArray[np.bool_]


def subsets(outcomes: Sequence[Outcome], pooled_types: Mapping[str, Collection[str]]) -> list[Subset]:
    """Return the subsets to report: all questions, each group, each question type and each of `pooled_types`.

    Groups and types are sorted by name, pooled types are in the declared order; empty subsets and names are omitted.
    """
    types = np.array([outcome.question_type for outcome in outcomes], dtype=str)
    groups = np.array([outcome.group for outcome in outcomes], dtype=str)
    subsets = [Subset("overall", "overall", np.ones(len(outcomes), bool))]
    subsets += [Subset("group", str(name), groups == name) for name in np.unique(groups) if name]
    subsets += [Subset("type", str(name), types == name) for name in np.unique(types) if name]
    declared = [Subset("pooled", name, np.isin(types, list(members))) for name, members in pooled_types.items()]
    return subsets + [subset for subset in declared if subset.members.any()]


def accuracy_table(
    outcomes: Sequence[Outcome], reporting: Reporting = OVERALL, resampling: Resampling = BY_VIDEO
) -> list[AccuracyRow]:
    """Return the accuracy of each subset: a mean of groups first if it is the headline, then in the order of `subsets`.

    The mean of groups is unweighted, over the groups with a known answer; its interval is computed from the same resamples.
    """
    parts = subsets(outcomes, reporting.pooled_types)
    labelled = np.array([outcome.answer_index is not None for outcome in outcomes], bool)
    correct = np.array([outcome.correct for outcome in outcomes], bool)
    unanswered = np.array([outcome.prediction is None for outcome in outcomes], bool)
    videos = resampling.clusters([outcome.video_id for outcome in outcomes])
    counted = np.stack([part.members[labelled] for part in parts], axis=1)
    is_correct = counted & correct[labelled, None]
    ratios = resampled_ratios(is_correct, counted, videos[labelled], resampling.resamples, resampling.seed)
    rows = [
        _row(
            part,
            reporting.headline,
            n_questions=int((part.members & labelled).sum()),
            n_correct=int((part.members & correct).sum()),
            n_unanswered=int((part.members & labelled & unanswered).sum()),
            ratios=ratios[:, column],
        )
        for column, part in enumerate(parts)
    ]
    if reporting.headline == "mean_of_groups":
        rows.insert(0, _mean_row(rows, ratios))
    return rows


def _row(
    part: Subset, headline: Headline, n_questions: int, n_correct: int, n_unanswered: int, ratios: NDArray[np.float64]
) -> AccuracyRow:
    n_unlabelled = int(part.members.sum()) - n_questions
    is_headline = part.scope == headline
    if n_questions == 0:
        return AccuracyRow(part.scope, part.name, is_headline, 0, 0, 0, n_unlabelled, *[None] * 6)
    from scipy.stats import binomtest  # imported here because it takes most of a second

    wilson = binomtest(n_correct, n_questions).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    low, high = percentile_interval(100 * ratios) or (None, None)
    return AccuracyRow(
        scope=part.scope,
        name=part.name,
        is_headline=is_headline,
        n_questions=n_questions,
        n_correct=n_correct,
        n_unanswered=n_unanswered,
        n_unlabelled=n_unlabelled,
        accuracy_percent=100 * n_correct / n_questions,
        bootstrap_low_percent=low,
        bootstrap_high_percent=high,
        wilson_low_percent=100 * float(wilson.low),
        wilson_high_percent=100 * float(wilson.high),
        unanswered_percent=100 * n_unanswered / n_questions,
    )


def _mean_row(rows: Sequence[AccuracyRow], ratios: NDArray[np.float64]) -> AccuracyRow:
    columns = [column for column, row in enumerate(rows) if row.scope == "group"]
    counted = [column for column in columns if rows[column].n_questions]
    groups = [rows[column] for column in counted]
    accuracies = [row.accuracy_percent for row in groups if row.accuracy_percent is not None]
    n_questions, n_unanswered = (sum(getattr(row, name) for row in groups) for name in ("n_questions", "n_unanswered"))
    # A resample without a question of some group has no mean of groups; percentile_interval ignores its nan.
    low, high = (percentile_interval(100 * ratios[:, counted].mean(axis=1)) if groups else None) or (None, None)
    return AccuracyRow(
        scope="mean_of_groups",
        name=f"mean of {len(groups)} groups",
        is_headline=True,
        n_questions=n_questions,
        n_correct=sum(row.n_correct for row in groups),
        n_unanswered=n_unanswered,
        n_unlabelled=sum(rows[column].n_unlabelled for column in columns),
        accuracy_percent=sum(accuracies) / len(accuracies) if accuracies else None,
        bootstrap_low_percent=low,
        bootstrap_high_percent=high,
        wilson_low_percent=None,
        wilson_high_percent=None,
        unanswered_percent=100 * n_unanswered / n_questions if n_questions else None,
    )


def format_accuracy_table(rows: Sequence[AccuracyRow], by: str, table: Table = aligned) -> str:
    """Format the table, one line per row; "-" for a missing percentage; `by` names what was resampled, video or question."""
    lines = [
        ["", "questions", "correct", "accuracy", f"95 % by {by}", "95 % Wilson", "unanswered", "no known answer"],
        *(
            [
                INDENTS[row.scope] + row.name,
                str(row.n_questions),
                str(row.n_correct),
                or_dash(row.accuracy_percent),
                _span(row.bootstrap_low_percent, row.bootstrap_high_percent),
                _span(row.wilson_low_percent, row.wilson_high_percent),
                or_dash(row.unanswered_percent),
                str(row.n_unlabelled),
            ]
            for row in rows
        ),
    ]
    return table(lines)


def _span(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.1f} - {high:.1f}"
