"""How many questions were answered rightly: overall, by the data set's groups and by its question types.

The denominator is stated, never adjusted: every question with a known answer counts, and one that was not answered (its
video could not be read, say) counts as wrong.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.stats import binomtest

Outcome = tuple[int | None, int | None, str]


@dataclass(frozen=True)
class AccuracyRow:
    """One line of the accuracy table. Percentages are None where `n_questions` is 0.

    `n_questions` have a known answer; `n_correct` and `n_unanswered` are among these. `n_unlabelled` have none
    and are in no percentage. `low_percent` to `high_percent` is Wilson's 95 % interval of the accuracy.
    """

    scope: Literal["overall", "group", "type"]
    name: str
    n_questions: int
    n_correct: int
    n_unanswered: int
    n_unlabelled: int
    accuracy_percent: float | None
    low_percent: float | None
    high_percent: float | None
    unanswered_percent: float | None


def accuracy_table(outcomes: Iterable[Outcome], group: Callable[[str], str]) -> list[AccuracyRow]:
    """The overall row, then one per group, then one per question type, each by name; the name "" means none.

    `outcomes` are (answer_index or None if not known, prediction or None if not answered, question_type), one each;
    `group` maps a question type to its group.
    """
    by_type: dict[str, list[Outcome]] = {}
    by_group: dict[str, list[Outcome]] = {}
    everything: list[Outcome] = []
    for outcome in outcomes:
        question_type = outcome[2]
        everything.append(outcome)
        by_type.setdefault(question_type, []).append(outcome)
        by_group.setdefault(group(question_type), []).append(outcome)
    return [
        _row("overall", "overall", everything),
        *(_row("group", name, by_group[name]) for name in sorted(by_group) if name),
        *(_row("type", name, by_type[name]) for name in sorted(by_type) if name),
    ]


def _row(scope: Literal["overall", "group", "type"], name: str, outcomes: Sequence[Outcome]) -> AccuracyRow:
    labelled = [(answer, prediction) for answer, prediction, _ in outcomes if answer is not None]
    n_questions = len(labelled)
    n_correct = sum(answer == prediction for answer, prediction in labelled)
    n_unanswered = sum(prediction is None for _, prediction in labelled)
    n_unlabelled = len(outcomes) - n_questions
    if n_questions == 0:
        return AccuracyRow(scope, name, 0, 0, 0, n_unlabelled, None, None, None, None)
    interval = binomtest(n_correct, n_questions).proportion_ci(confidence_level=0.95, method="wilson")
    return AccuracyRow(
        scope=scope,
        name=name,
        n_questions=n_questions,
        n_correct=n_correct,
        n_unanswered=n_unanswered,
        n_unlabelled=n_unlabelled,
        accuracy_percent=100 * n_correct / n_questions,
        low_percent=100 * float(interval.low),
        high_percent=100 * float(interval.high),
        unanswered_percent=100 * n_unanswered / n_questions,
    )


def format_accuracy_table(rows: Sequence[AccuracyRow]) -> str:
    """The table as aligned plain text for a terminal, one line a row; "-" where there is no percentage."""
    indents = {"overall": "", "group": "  ", "type": "    "}
    lines = [("", "questions", "correct", "accuracy", "95 % interval", "unanswered", "no known answer")]
    lines += [
        (
            indents[row.scope] + row.name,
            str(row.n_questions),
            str(row.n_correct),
            _percent(row.accuracy_percent),
            "-" if row.low_percent is None else f"{row.low_percent:.1f} - {row.high_percent:.1f}",
            _percent(row.unanswered_percent),
            str(row.n_unlabelled),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]) for name, *cells in lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} %"
