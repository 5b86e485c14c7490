"""Two runs side by side: a paired test over the questions that both were asked, and the questions that changed."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

from cache.errors import ComparisonError
from cache.lineage import differences
from cache.matching import find
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

# What makes two questions of one id the same question. Its wording and its clip may differ: trying another is a comparison.
SAME = attrgetter("video_id", "options", "answer_index")

CHANGED_SHOWN = 10


@dataclass(frozen=True)
class ChangedQuestion:
    """A question for which A and B chose differently; `change` is lost (only A is right), gained (only B), or wrong (neither).

    The options are texts; None where the right one is not known, or a run did not answer.
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
    """The result of `sevila compare`; counts are questions.

    `n_only_a` and `n_only_b` were asked of one run only; `n_differing` have one id and other options, video or right option
    in A and B; `n_unlabelled` have no known answer. None of these is in `rows`, over `n_compared` questions.
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
        """How many questions were not compared, by reason."""
        counts = {
            "only in A": self.n_only_a,
            "only in B": self.n_only_b,
            "with other options, video or right option": self.n_differing,
            "without a known answer": self.n_unlabelled,
        }
        return [f"{count:,} {what}" for what, count in counts.items() if count]

    @property
    def headline(self) -> PairedRow:
        """The one row by which the data set is compared."""
        return next(row for row in self.rows if row.is_headline)


def compare(store: Store, a: str, b: str, resampling: Resampling = BY_VIDEO) -> Comparison:
    """Compare two runs, each given as the id of its answers or metrics, or an unambiguous beginning of one.

    Raises:
        StoreError: no artifact, or several, begin so.
        ComparisonError: an id is of another kind, the runs share no question, or none that they share has a known answer.
    """
    run_a, run_b = _RunSide(store, a), _RunSide(store, b)
    shared, same, labelled = _shared(run_a, run_b)
    of_a, of_b = run_a.outcomes(labelled), run_b.outcomes(labelled)
    return Comparison(
        a=run_a.id,
        b=run_b.id,
        differences=differences(store, run_a.id, run_b.id),
        n_compared=len(labelled),
        n_only_a=len(run_a.answers) - len(shared),
        n_only_b=len(run_b.answers) - len(shared),
        n_differing=len(shared) - len(same),
        n_unlabelled=len(same) - len(labelled),
        n_unanswered_a=sum(outcome.prediction is None for outcome in of_a),
        n_unanswered_b=sum(outcome.prediction is None for outcome in of_b),
        bootstrap=resampling,
        rows=comparison_table(of_a, of_b, run_a.reporting, resampling),
        changed=[
            _changed(run_a.questions[id], x, y)
            for id, x, y in zip(labelled, of_a, of_b, strict=True)
            if x.prediction != y.prediction
        ],
    )


def paired_test(store_a: Store, a: str, store_b: Store, b: str) -> PairedRow:
    """Return the row of `compare` over all questions, for answers that lie in two stores, perhaps under one id.

    Raises like `compare`.
    """
    run_a, run_b = _RunSide(store_a, a), _RunSide(store_b, b)
    *_, labelled = _shared(run_a, run_b)
    rows = comparison_table(run_a.outcomes(labelled), run_b.outcomes(labelled), run_a.reporting)
    return next(row for row in rows if row.scope == "overall")


def comparison_text(comparison: Comparison, n_changed: int = CHANGED_SHOWN, table: Table = aligned) -> str:
    """Return the comparison for a terminal, with the first `n_changed` of the changed questions."""
    lines = [f"A: {comparison.a}", f"B: {comparison.b}", *(f"  {line}" for line in comparison.differences), ""]
    lines.append(f"{counted(comparison.n_compared, 'questions')} compared")
    lines[-1] += f"; left out: {', '.join(comparison.left_out)}" if comparison.left_out else ""
    if comparison.n_unanswered_a or comparison.n_unanswered_b:
        lines.append(
            f"unanswered, counted as wrong: {comparison.n_unanswered_a} by A, {comparison.n_unanswered_b} by B"
        )
    by = comparison.bootstrap.by
    lines += ["", *format_comparison_table(comparison.rows, by, table).split("\n"), ""]
    lines += [
        f"95 % by {by}: paired percentile bootstrap, {comparison.bootstrap.resamples:,} resamples of {by}s",
        "p: McNemar's exact test, which takes questions for independent; not corrected for the number of rows",
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
    """One of the two runs: its answers and questions by question id, and how its data set reports."""

    def __init__(self, store: Store, given: str) -> None:
        id = warn_if_stale(store, find(store, given))
        record = store.record(id)
        if record.kind == Metrics.kind:
            record = store.record(record.inputs["answers"] or "")
        if record.kind != Answers.kind:
            raise ComparisonError(
                f"{given!r} is {id}, of kind {record.kind}; the id of answers or metrics was wanted: "
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
    """Return the ids that both were asked, those of them that are the same questions, and of these those with known answers."""
    shared = [id for id in run_a.answers if id in run_b.answers]
    same = [id for id in shared if SAME(run_a.questions[id]) == SAME(run_b.questions[id])]
    labelled = [id for id in same if run_a.questions[id].answer_index is not None]
    _check(run_a, run_b, len(shared), len(same), len(labelled))
    return shared, same, labelled


def _check(run_a: _RunSide, run_b: _RunSide, n_shared: int, n_same: int, n_labelled: int) -> None:
    if not n_same:
        raise ComparisonError(
            f"{run_a.id} and {run_b.id} share no question: {len(run_a.answers)} and {len(run_b.answers)} questions, "
            f"{n_shared} ids in common, none of them with the same video, options and right option; "
            "name two runs over one data set"
        )
    if not n_labelled:
        raise ComparisonError(
            f"none of the {n_same} questions that {run_a.id} and {run_b.id} share has a known answer, so that neither "
            "can be right; compare runs over a split that comes with its answers"
        )


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
