"""Answers as text: each question with the texts of its options, its keyframes and the right answer."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from cache.errors import CorruptArtifactError, SevilaError, rebuild_hint
from cache.printable import printable
from cache.store import Store
from pipeline.datasets.question import Question
from pipeline.engine.joined import typed_rows_of_all
from pipeline.engine.typed_rows import ByKey, Mapped
from pipeline.metrics.accuracy import Answered
from stages.answer_questions import Answers
from stages.list_questions import Questions
from stages.select_keyframes import Keyframes

# First characters of a cell that spreadsheets read as a formula, unless the whole cell is a number.
FORMULA = re.compile(r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]+)?([eE][+-]?[0-9]+)?")


class AnswerInWords(NamedTuple):
    """A row of the answer table: option texts instead of indices, keyframe times, the reason of a failure."""

    question_id: str
    video_id: str
    question: str
    answer: str
    right_answer: str
    correct: bool | None
    keyframe_seconds: str
    reason: str


def answers_in_words(store: Store, answers_id: str) -> Sequence[AnswerInWords]:
    """Return one row per question of an answers artifact; rows are computed on access."""
    answers = Answers(store, answers_id)
    questions = Questions(store, answers.record.inputs["questions"])
    keyframes = Keyframes(store, answers.record.inputs["keyframes"])
    by_id = questions.by_id()
    rows = keyframes.chosen(questions)
    chosen = ByKey(keyframes.columns("keyframes", "question_id")["question_id"], rows)

    def in_words(answer: Answered) -> AnswerInWords:
        return _in_words(answer, by_id[answer.question_id], chosen[answer.question_id].seconds, answers)

    return Mapped(in_words, typed_rows_of_all(answers, "answers", questions, Answered))


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Return rows as CSV text with a header, one line per row; formulas and control characters are escaped."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0] if rows else [])
    writer.writeheader()
    writer.writerows({key: _as_cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def submitted_answers(store: Store, answers_id: str, suffix: str) -> tuple[str, int]:
    """Return an EgoSchema submission and the number of questions without an answer, for which it holds -1 (never right).

    Args:
        suffix: .json, `{q_uid: option from 0}` for the evaluation server; or .csv with columns q_uid and answer, for Kaggle.

    Raises:
        SevilaError: The suffix is another one.
    """
    answers = Answers(store, answers_id)
    rows = typed_rows_of_all(answers, "answers", Questions(store, answers.record.inputs["questions"]), Answered)
    chosen = {row.question_id: -1 if row.prediction is None else row.prediction for row in rows}
    n_without = sum(option < 0 for option in chosen.values())
    if suffix == ".json":
        return json.dumps(chosen, indent=1) + "\n", n_without
    if suffix != ".csv":
        raise SevilaError(
            f"the name of a submission ends in {suffix or 'nothing'}; expected .json (for the server) or .csv (Kaggle)"
        )
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("q_uid", "answer"), *chosen.items()])
    return text.getvalue(), n_without


def _as_cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    is_formula = FORMULA.match(value) and not NUMBER.fullmatch(value)
    return ("'" if is_formula else "") + printable(value)


def _in_words(answer: Answered, question: Question, seconds: Sequence[float], source: Answers) -> AnswerInWords:
    def text(index: int | None) -> str:
        if index is not None and index >= len(question.options):
            raise CorruptArtifactError(
                f"question {question.question_id!r} has the answer {index}, from 0, of {len(question.options)} options; "
                f"{rebuild_hint(source.path)}"
            )
        return "" if index is None else question.options[index]

    is_known = question.answer_index is not None and answer.prediction is not None
    return AnswerInWords(
        *(question.question_id, question.video_id, question.question),
        text(answer.prediction),
        text(question.answer_index),
        answer.prediction == question.answer_index if is_known else None,
        " ".join(f"{second:.2f}" for second in seconds),
        answer.reason,
    )
