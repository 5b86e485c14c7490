"""Open-ended answering: the Answerer generates text from the keyframes, for questions without options (not in the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from pydantic import Field

from pipeline.engine.output import Shard, ShardedOutput
from pipeline.engine.row_schema import schema_of
from pipeline.engine.stage import Artifact, Config, RunContext, stage
from pipeline.inference.backbone import Backbone
from pipeline.inference.frame_by_frame import plan_questions
from pipeline.inference.keyframe_reader import FramesAnswer, KeyframeReader, QuestionFrames
from pipeline.inference.load_models import OnDemand, load_answerer
from pipeline.inference.not_finite import ANSWERS, BROKEN
from pipeline.inference.text_reader import GeneratedText, TextReader
from pipeline.inference.visual_windows import Windows
from pipeline.precision import PRECISION_DESCRIPTION, LanguagePrecision
from pipeline.reasons import Reason
from pipeline.selection.keyframes import ChosenFrames
from stages.extract_features import Features
from stages.init_answerer import AnswererWeights
from stages.list_questions import Questions
from stages.select_keyframes import Keyframes


class AnswerText(NamedTuple):
    """The generated answer to a question; a row of the table `answers`."""

    question_id: str
    video_id: str
    status: str  # ok or failed
    reason: Reason
    text: str = ""  # the answer
    token_ids: Sequence[int] = ()  # including `</s>`, unless max_tokens cut the text
    log_probabilities: Sequence[float] = ()  # of each token
    n_frames: int = 0  # used for the answer
    truncated: bool = False  # the question's text exceeded the model's maximum length


class GeneratedAnswers(Artifact):
    """One row per question, in Keyframes' order."""

    kind = "generated_answers"
    tables = {"answers": schema_of(1, AnswerText, "question_id", log_probabilities="list<float32>")}


PROMPT = "open"


class GenerateAnswers(Config):
    """How the Answerer generates text."""

    max_tokens: int = Field(30, ge=1, le=512, description="maximum length of an answer, in tokens")
    precision: LanguagePrecision = Field("float32", description=PRECISION_DESCRIPTION)


@stage(version=1, output=GeneratedAnswers, plan=plan_questions, gpu=True)
def generate_answers(
    cfg: GenerateAnswers,
    run: RunContext,
    questions: Questions,
    keyframes: Keyframes,
    features: Features,
    backbone: Backbone,
    answerer: AnswererWeights,
    *,
    out: ShardedOutput,
) -> None:
    """Generate an answer to every question from its keyframes, by greedy decoding."""
    pairs = keyframes.asked(questions, features)
    windows = Windows(features, run.torch_device(), answerer)
    loaded = OnDemand(partial(load_answerer, run, backbone, answerer, cfg.precision))

    def work(shard: Shard) -> None:
        shard_pairs = [pairs[item] for item in shard.items]
        answers = {frames.question_id: FramesAnswer(frames.reason) for _, frames in shard_pairs}
        units = [QuestionFrames(question, frames.rows) for question, frames in shard_pairs if not frames.reason]
        texts: dict[str, GeneratedText] = {}
        if units:
            with shard.phase("answer"):
                reader = TextReader(loaded.model, PROMPT, cfg.max_tokens)
                generated = KeyframeReader(reader, windows, shard).answers(units)
            answers |= {question_id: unit_answers[0] for question_id, unit_answers in generated.items()}
            texts = {id: reader.text_of(answer.values) for id, answer in answers.items() if not answer.reason}
        rows = [
            _answer_text(frames, answers[frames.question_id], texts.get(frames.question_id))
            for _, frames in shard_pairs
        ]
        shard.dropped.update(row.reason.code for row in rows if row.status != "ok")
        shard.write_rows("answers", rows)

    out.each_shard(work)
    out.refuse_all(ANSWERS, len(pairs), f"the Answerer gave no question finite values; {BROKEN}")


def _answer_text(frames: ChosenFrames, answer: FramesAnswer, text: GeneratedText | None) -> AnswerText:
    row = AnswerText(frames.question_id, frames.video_id, "failed" if answer.reason else "ok", answer.reason)
    if text is None:
        return row
    return row._replace(**text._asdict(), n_frames=len(frames.rows), truncated=answer.truncated)
