"""The results of a setting for each question: keyframes, answer and probabilities, or the reason why there are none."""

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
    """Return the ids of the questions that are the same in a setting of another run."""
    keys = {question.question_id: SAME(question) for question in questions}
    other_questions = Questions(store, setting.questions).questions()
    return {other.question_id for other in other_questions if keys.get(other.question_id) == SAME(other)}


def contents_of(
    store: Store, setting: EvaluatedSetting, ids: set[str]
) -> tuple[Contents, list[tuple[str, Sequence[int]]]]:
    """Return the results of a setting for these questions, by short keys, and (video id, stored rows) of the keyframes.

    `k`: positions of keyframes, `p`: probability of each option in thousandths, `v`: votes, `f`: the option that each keyframe
    alone gives, `m`: retrieved moments, `r`: reason of a failure; `prediction`: index of the chosen option.
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
        frame_answers = _frame_answers(answers)
        for answer in answers.typed_rows("answers", AnswerRow):
            if answer.question_id in contents:
                contents[answer.question_id] |= _answer(answer, frame_answers.get(answer.question_id))
    if setting.moments is not None:
        _add_moments(Moments(store, setting.moments), contents)
    return contents, rows


def single_frame_answers(store: Store, questions_id: str, frames_id: str) -> dict[str, bytes]:
    """Return, as JSON by question, the option that each single frame gives; empty if the store has no labels of these frames."""
    for record in store.of_stage("label_frames"):
        if (record.inputs["questions"], record.inputs["frames"]) == (questions_id, frames_id):
            try:
                table = PseudoLabels(store, record.id).columns("pseudo_labels", "question_id", "prediction")
            except CorruptArtifactError:
                continue
            slices = runs_of(table["question_id"])
            return {id: orjson.dumps(table["prediction"][rows].tolist()) for id, rows in slices.items()}
    return {}


def _add_moments(moments: Moments, contents: Contents) -> None:
    windows: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for moment in moments.typed_rows("moments", RankedMoment):
        windows[moment.question_id].append((round(moment.start_seconds, 2), round(moment.end_seconds, 2)))
    for query in moments.typed_rows("queries", Query):
        if query.question_id in contents:
            best = windows[query.question_id][:MOMENTS_SHOWN]
            contents[query.question_id] |= {"m": best} | ({"r": query.reason} if query.reason else {})


def _answer(answer: AnswerRow, frame_answers: list[int] | None) -> dict[str, Any]:
    if answer.prediction is None:
        return {"r": answer.reason}
    thousandths = [round(1000 * share) for share in option_probabilities(answer.option_logits).tolist()]
    content = {"p": thousandths, "v": answer.votes, "f": frame_answers}
    return {"prediction": answer.prediction} | {key: values for key, values in content.items() if values}


def _frame_answers(answers: Answers) -> dict[str, list[int]]:
    """Return the option that each keyframe alone gives, in the keyframes' order; empty unless the Answerer votes."""
    if not answers.record.rows.get("frame_answers"):
        return {}
    table = answers.columns("frame_answers", "question_id", "prediction")
    return {id: table["prediction"][rows].tolist() for id, rows in runs_of(table["question_id"]).items()}
