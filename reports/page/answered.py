"""What each setting has to say about each question: its keyframes, answer and probabilities, or why there is none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import orjson

from cache.errors import CorruptArtifactError
from cache.store import Store
from pipeline.batching import runs_of
from pipeline.datasets.question import Question
from pipeline.metrics.accuracy import AnswerRow
from pipeline.metrics.calibration import option_probabilities
from pipeline.selection.keyframes import ChosenFrames
from pipeline.selection.moments import Query, RankedMoment
from reports.compare import SAME
from reports.page.runs import EvaluatedSetting, stored_as
from stages.answer_questions import Answers
from stages.label_frames import PseudoLabels
from stages.list_questions import Questions
from stages.retrieve_moments import Moments
from stages.select_keyframes import Keyframes

MOMENTS_SHOWN = 5
Contents = dict[str, dict[str, Any]]


def same_questions(store: Store, setting: EvaluatedSetting, questions: Sequence[Question]) -> set[str]:
    """Return the ids of those of the questions that a setting of another run was asked as they are here."""
    here = {question.question_id: SAME(question) for question in questions}
    others = Questions(store, setting.questions).questions()
    return {other.question_id for other in others if here.get(other.question_id) == SAME(other)}


def contents_of(
    store: Store, setting: EvaluatedSetting, ids: set[str]
) -> tuple[Contents, list[tuple[str, Sequence[int]]]]:
    """Return what a setting has for each of these questions, by short names, and (video, stored rows) of the keyframes.

    `k`: positions of keyframes, `p`: thousandths of each option, `v`: votes, `f`: the option that each keyframe gives alone,
    `m`: retrieved moments, `r`: why there is none; `prediction` where a question was answered.
    """
    contents: Contents = {id: {} for id in ids}
    rows: list[tuple[str, Sequence[int]]] = []
    if setting.keyframes is not None:
        for row in Keyframes(store, setting.keyframes).typed_rows("keyframes", ChosenFrames):
            if row.question_id in contents:
                contents[row.question_id] |= {"k": row.positions} | ({"r": row.reason} if row.reason else {})
                rows.append((row.video_id, row.rows))
    if setting.answers is not None:
        answers = stored_as(store, setting.answers, Answers)
        alone = _frame_answers(answers)
        for answer in answers.typed_rows("answers", AnswerRow):
            if answer.question_id in contents:
                contents[answer.question_id] |= _answer(answer, alone.get(answer.question_id))
    if setting.moments is not None:
        _add_moments(Moments(store, setting.moments), contents)
    return contents, rows


def single_frame_answers(store: Store, questions_id: str, frames_id: str) -> dict[str, bytes]:
    """Return, as JSON by question, the option that each single frame gives, where the store has labels of these frames."""
    for record in store.of_stage("label_frames"):
        if (record.inputs["questions"], record.inputs["frames"]) == (questions_id, frames_id):
            try:
                table = PseudoLabels(store, record.id).columns("pseudo_labels", "question_id", "prediction")
            except CorruptArtifactError:
                continue
            runs = runs_of(table["question_id"])
            return {id: orjson.dumps(table["prediction"][where].tolist()) for id, where in runs.items()}
    return {}


def _add_moments(moments: Moments, contents: Contents) -> None:
    windows: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for moment in moments.typed_rows("moments", RankedMoment):
        windows[moment.question_id].append((round(moment.start_seconds, 2), round(moment.end_seconds, 2)))
    for query in moments.typed_rows("queries", Query):
        if query.question_id in contents:
            best = windows[query.question_id][:MOMENTS_SHOWN]
            contents[query.question_id] |= {"m": best} | ({"r": query.reason} if query.reason else {})


def _answer(answer: AnswerRow, alone: list[int] | None) -> dict[str, Any]:
    if answer.prediction is None:
        return {"r": answer.reason}
    chances = [round(1000 * chance) for chance in option_probabilities(answer.option_logits).tolist()]
    given = {"p": chances, "v": answer.votes, "f": alone}
    return {"prediction": answer.prediction} | {name: values for name, values in given.items() if values}


def _frame_answers(answers: Answers) -> dict[str, list[int]]:
    """Return the option that each keyframe gives by itself, in the order of the keyframes; none where they are read together."""
    if not answers.record.rows.get("frame_answers"):
        return {}
    table = answers.columns("frame_answers", "question_id", "prediction")
    return {id: table["prediction"][where].tolist() for id, where in runs_of(table["question_id"]).items()}
