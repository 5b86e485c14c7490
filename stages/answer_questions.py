"""Answering: the Answerer reads the keyframes and chooses an option (paper section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from pydantic import Field

from cache.tables import Schema
from pipeline.datasets.question import Question
from pipeline.engine.output import Shard, ShardedOutput
from pipeline.engine.row_schema import schema_of
from pipeline.engine.stage import Artifact, Config, RunContext, stage
from pipeline.engine.typed_rows import Mapped
from pipeline.inference.backbone import Backbone
from pipeline.inference.frame_by_frame import plan_questions
from pipeline.inference.keyframe_reader import FramesAnswer, KeyframeReader, QuestionFrames
from pipeline.inference.load_models import OnDemand, load_answerer
from pipeline.inference.not_finite import ANSWERS, BROKEN, SCORES
from pipeline.inference.option_reader import READOUT_DESCRIPTION, OptionReader, Readout
from pipeline.inference.visual_windows import Windows
from pipeline.inference.written_answers import OF_REPLIES, why_not_asked
from pipeline.metrics.accuracy import AnswerRow
from pipeline.models.prompts import AnsweringPrompt
from pipeline.precision import PRECISION_DESCRIPTION, LanguagePrecision
from pipeline.reasons import Reason
from pipeline.selection.keyframes import ChosenFrames, majority_vote
from stages.extract_features import Features
from stages.init_answerer import AnswererWeights
from stages.list_questions import Questions
from stages.select_keyframes import Keyframes


class Answers(Artifact):
    """One row per question, in Keyframes' order; with voting also one row per (question, keyframe)."""

    kind = "answers"
    # Codes of failures that are not caused by the video.
    reasons_of_questions = (
        "no_options",
        "too_many_options",
        "no_moments",
        "no_true_frame",
        "no_frame_chosen",
        SCORES,
        ANSWERS,
        *OF_REPLIES,
    )
    tables = {
        "answers": schema_of(1, AnswerRow, "question_id", prediction="int8", option_logits="list<float32>"),
        "frame_answers": Schema(
            1,
            question_id="string",
            frame_index="int64",
            prediction="int8",
            option_logits="list<float32>",
            first_token_id="int32 or null",  # the greedy first token
        ),
    }


class AnswerQuestions(Config):
    """How the Answerer is asked."""

    method: Literal["concatenate", "vote"] = Field(
        "concatenate", description="concatenate: read all keyframes together; vote: each alone, then a majority vote"
    )
    prompt: AnsweringPrompt = "multiple_choice"
    readout: Readout = Field("letter", description=READOUT_DESCRIPTION)
    precision: LanguagePrecision = Field("float32", description=PRECISION_DESCRIPTION)


@stage(version=1, output=Answers, plan=plan_questions, gpu=True)
def answer_questions(
    cfg: AnswerQuestions,
    run: RunContext,
    questions: Questions,
    keyframes: Keyframes,
    features: Features,
    backbone: Backbone,
    answerer: AnswererWeights,
    *,
    out: ShardedOutput,
) -> None:
    """Answer every question from its keyframes."""
    pairs = Mapped(_refused, keyframes.asked(questions, features))
    windows = Windows(features, run.torch_device(), answerer)
    loaded = OnDemand(partial(load_answerer, run, backbone, answerer, cfg.precision))

    def work(shard: Shard) -> None:
        shard_pairs = [pairs[item] for item in shard.items]
        askable = [(question, frames) for question, frames in shard_pairs if not frames.reason]
        units = [unit for question, frames in askable for unit in _units(question, frames, cfg.method)]
        answers: dict[str, list[FramesAnswer]] = {}
        if units:
            with shard.phase("answer"):
                reader = OptionReader(
                    loaded.model, cfg.prompt, cfg.readout, shard.settings["batch_tokens"], forced=False
                )
                answers = KeyframeReader(reader, windows, shard).answers(units)
        rows = [_answer_row(frames, answers.get(frames.question_id, []), cfg.method) for _, frames in shard_pairs]
        shard.dropped.update(row.reason.code for row in rows if row.status != "ok")
        shard.write_rows("answers", rows)
        voting = shard_pairs if cfg.method == "vote" else []
        frame_rows = [row for _, frames in voting for row in _frame_rows(frames, answers.get(frames.question_id, []))]
        shard.write_rows("frame_answers", frame_rows)

    out.each_shard(work)
    out.refuse_all(ANSWERS, len(pairs), f"the Answerer gave no question finite values; {BROKEN}")


def _refused(pair: tuple[Question, ChosenFrames]) -> tuple[Question, ChosenFrames]:
    """Add the reason to a question that cannot be asked."""
    question, frames = pair
    return question, frames._replace(reason=frames.reason or why_not_asked(question))


def _units(question: Question, keyframes: ChosenFrames, method: str) -> list[QuestionFrames]:
    units = [[row] for row in keyframes.rows] if method == "vote" else [keyframes.rows]
    return [QuestionFrames(question, rows) for rows in units]


def _answer_row(keyframes: ChosenFrames, answers: Sequence[FramesAnswer], method: str) -> AnswerRow:
    reason = keyframes.reason or _reason(answers)
    row = AnswerRow(keyframes.question_id, keyframes.video_id, "failed" if reason else "ok", reason)
    if reason or not answers:
        return row
    answer = answers[0]
    row = row._replace(n_frames=len(keyframes.rows), truncated=answer.truncated)
    if method != "vote":
        return row._replace(
            prediction=answer.prediction, option_logits=answer.values, first_token_id=answer.first_token_id
        )
    values = np.array([answer.values for answer in answers], dtype=np.float64)
    winner, votes = majority_vote(values)
    return row._replace(prediction=winner, option_logits=values.mean(axis=0), votes=votes.tolist())


def _reason(answers: Sequence[FramesAnswer]) -> Reason:
    """Return why a question has no answer: the first reason of its units."""
    return next((answer.reason for answer in answers if answer.reason), Reason())


def _frame_rows(keyframes: ChosenFrames, answers: Sequence[FramesAnswer]) -> list[dict[str, Any]]:
    if _reason(answers):
        return []
    return [
        {
            "question_id": keyframes.question_id,
            "frame_index": frame,
            "prediction": answer.prediction,
            "option_logits": answer.values,
            "first_token_id": answer.first_token_id,
        }
        for frame, answer in zip(keyframes.frame_indices, answers, strict=bool(answers))
    ]
