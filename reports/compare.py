"""Comparison of two runs: a paired test over their common questions, and the questions whose answer changed."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

from cache.errors import ComparisonError
from cache.id_prefixes import find
from cache.lineage import differences
from cache.printable import counted, printable_lines
from cache.store import Store
from pipeline.datasets.question import Question
from pipeline.engine.joined import typed_rows_of_all
from pipeline.metrics.accuracy import Answered, Outcome, Reporting
from pipeline.metrics.comparison import PairedRow, comparison_table, format_comparison_table
from pipeline.metrics.resampling import BY_VIDEO, Resampling
from pipeline.text_table import Table, aligned
from reports.stale import warn_if_stale
from stages.answer_questions import Answers
from stages.evaluate import Metrics, outcomes, reporting
from stages.list_questions import Questions

# Questions with one id are the same if these fields are equal; wording and clip may differ, as comparisons may be about them.
SAME = attrgetter("video_id", "options", "answer_index")

CHANGED_SHOWN = 10


@dataclass(frozen=True)
class ChangedQuestion:
    """A question that A and B answered differently; `change` is lost (only A is right), gained (only B), or wrong (neither).

    The options are texts; None if the right option is not known, or the run did not answer.
    """

    question_id: str
    video_id: str
    question: str
    change: str
    right: str | None
    a: str | None
    b: str | None


@dataclass(frozen=True)
class Comparison:
    """The result of `sevila compare`; counts are numbers of questions.

    `n_only_a` and `n_only_b` occur in one run only; `n_differing` have the same id but different options, video or right
    option in A and B; `n_unlabelled` have no known answer. `rows` cover the remaining `n_compared` questions.
    """

    a: str
    b: str
    differences: list[str]
    n_compared: int
    n_only_a: int
    n_only_b: int
    n_differing: int
    n_unlabelled: int
    n_unanswered_a: int
    n_unanswered_b: int
    bootstrap: Resampling
    rows: list[PairedRow]
    changed: list[ChangedQuestion]

    @property
    def left_out(self) -> list[str]:
        """The numbers of questions that were not compared, with the reasons."""
        counts = {
            "only in A": self.n_only_a,
            "only in B": self.n_only_b,
            "with other options, video or right option": self.n_differing,
            "without a known answer": self.n_unlabelled,
        }
        return [f"{count:,} {reason}" for reason, count in counts.items() if count]

    @property
    def headline(self) -> PairedRow:
        """The row of the data set's main metric."""
        return next(row for row in self.rows if row.is_headline)


def compare(store: Store, a: str, b: str, resampling: Resampling = BY_VIDEO) -> Comparison:
    """Compare two runs, each given by the id of its answers or metrics, or by an unambiguous prefix of it.

    Raises:
        StoreError: A prefix matches no artifact or several.
        ComparisonError: An id is of another kind, the runs share no question, or no shared question has a known answer.
    """
    run_a, run_b = _RunSide(store, a), _RunSide(store, b)
    shared, same, labelled = _shared(run_a, run_b)
    outcomes_a, outcomes_b = run_a.outcomes(labelled), run_b.outcomes(labelled)
    return Comparison(
        a=run_a.id,
        b=run_b.id,
        differences=differences(store, run_a.id, run_b.id),
        n_compared=len(labelled),
        n_only_a=len(run_a.answers) - len(shared),
        n_only_b=len(run_b.answers) - len(shared),
        n_differing=len(shared) - len(same),
        n_unlabelled=len(same) - len(labelled),
        n_unanswered_a=sum(outcome.prediction is None for outcome in outcomes_a),
        n_unanswered_b=sum(outcome.prediction is None for outcome in outcomes_b),
        bootstrap=resampling,
        rows=comparison_table(outcomes_a, outcomes_b, run_a.reporting, resampling),
        changed=[
            _changed(run_a.questions[id], outcome_a, outcome_b)
            for id, outcome_a, outcome_b in zip(labelled, outcomes_a, outcomes_b, strict=True)
            if outcome_a.prediction != outcome_b.prediction
        ],
    )


def paired_test(store_a: Store, a: str, store_b: Store, b: str) -> PairedRow:
    """Return the row of `compare` over all questions, for answers in two stores; raises the errors of `compare`."""
    run_a, run_b = _RunSide(store_a, a), _RunSide(store_b, b)
    *_, labelled = _shared(run_a, run_b)
    rows = comparison_table(run_a.outcomes(labelled), run_b.outcomes(labelled), run_a.reporting)
    return next(row for row in rows if row.scope == "overall")


def comparison_text(comparison: Comparison, n_changed: int = CHANGED_SHOWN, table: Table = aligned) -> str:
    """Return the comparison for a terminal, with the first `n_changed` changed questions."""
    lines = [f"A: {comparison.a}", f"B: {comparison.b}", *(f"  {line}" for line in comparison.differences), ""]
    lines.append(f"{counted(comparison.n_compared, 'questions')} compared")
    lines[-1] += f"; left out: {', '.join(comparison.left_out)}" if comparison.left_out else ""
    if comparison.n_unanswered_a or comparison.n_unanswered_b:
        lines.append(
            f"unanswered, counted as wrong: {comparison.n_unanswered_a} by A, {comparison.n_unanswered_b} by B"
        )
    unit = comparison.bootstrap.by  # video or question
    lines += ["", *format_comparison_table(comparison.rows, unit, table).split("\n"), ""]
    lines += [
        f"95 % by {unit}: paired percentile bootstrap, {comparison.bootstrap.resamples:,} resamples of {unit}s",
        "p: McNemar's exact test, which treats questions as independent; not corrected for the number of rows",
    ]
    counts = [sum(entry.change == change for entry in comparison.changed) for change in ("gained", "lost", "wrong")]
    changes_text = "{} gained by B, {} lost, {} from one wrong option to another".format(*counts)
    lines += ["", f"{counted(len(comparison.changed), 'questions')} changed: {changes_text}"]
    for entry in comparison.changed[:n_changed]:
        lines += [f"  {entry.change:6} {entry.question_id}: {entry.question}"]
        lines += [f"         right: {_text(entry.right)} | A: {_text(entry.a)} | B: {_text(entry.b)}"]
    if len(comparison.changed) > n_changed:
        lines.append(f"  ... and {len(comparison.changed) - n_changed} more (--changed N shows more, --json all)")
    return printable_lines(lines)


class _RunSide:
    """One of the two runs: its answers and questions by question id, and the reporting rules of its data set."""

    def __init__(self, store: Store, prefix: str) -> None:
        id = warn_if_stale(store, find(store, prefix))
        record = store.record(id)
        if record.kind == Metrics.kind:
            record = store.record(record.inputs["answers"] or "")
        if record.kind != Answers.kind:
            raise ComparisonError(
                f"{prefix!r} is {id}, of kind {record.kind}; expected the id of answers or metrics: "
                "`sevila cache ls` lists them as answer_questions-..., answer_with_vlm-... and evaluate-..."
            )
        questions = Questions(store, record.inputs["questions"])
        self.id = record.id
        answers = typed_rows_of_all(Answers(store, record.id), "answers", questions, Answered)
        self.answers = {answer.question_id: answer for answer in answers}
        self.questions = questions.by_id()
        self.reporting: Reporting = reporting(questions)

    def outcomes(self, ids: list[str]) -> list[Outcome]:
        return outcomes(self.questions, (self.answers[id] for id in ids))


def _shared(run_a: _RunSide, run_b: _RunSide) -> tuple[list[str], list[str], list[str]]:
    """Return the ids in both runs, those of them with the same question, and of these the ones with a known answer."""
    shared = [id for id in run_a.answers if id in run_b.answers]
    same = [id for id in shared if SAME(run_a.questions[id]) == SAME(run_b.questions[id])]
    labelled = [id for id in same if run_a.questions[id].answer_index is not None]
    if not same:
        raise ComparisonError(
            f"{run_a.id} and {run_b.id} share no question: {len(run_a.answers)} and {len(run_b.answers)} questions, "
            f"{len(shared)} ids in common, none of them with the same video, options and right option; "
            "compare two runs over one data set"
        )
    if not labelled:
        raise ComparisonError(
            f"none of the {len(same)} questions that {run_a.id} and {run_b.id} share has a known answer; "
            "compare runs over a split with known answers"
        )
    return shared, same, labelled


def _changed(question: Question, a: Outcome, b: Outcome) -> ChangedQuestion:
    def option(index: int | None) -> str | None:
        return None if index is None else question.options[index]

    change = "lost" if a.correct else "gained" if b.correct else "wrong"
    return ChangedQuestion(
        question.question_id,
        question.video_id,
        question.question,
        change=change,
        right=option(a.answer_index),
        a=option(a.prediction),
        b=option(b.prediction),
    )


def _text(option: str | None) -> str:
    return "(not answered)" if option is None else option
