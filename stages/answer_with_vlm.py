"""Answering by another video-language model, which reads the keyframes as pictures decoded from the videos."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from cache.errors import RecipeError
from pipeline.batching import cut
from pipeline.engine.joined import typed_rows_of_all
from pipeline.engine.output import Shard, ShardedOutput
from pipeline.engine.places import ServerPlace
from pipeline.engine.progress import track
from pipeline.engine.row_schema import schema_of
from pipeline.engine.sources import VideoFiles
from pipeline.engine.stage import Config, Plan, RunContext, stage
from pipeline.engine.weights import Weights
from pipeline.inference.local_vlm import LetterReadout, LocalVlm
from pipeline.inference.not_finite import ANSWERS, BROKEN
from pipeline.inference.questions_by_video import QuestionsOfVideo, ask_videos
from pipeline.inference.resident import resident
from pipeline.inference.written_answers import (
    GARBAGE,
    REFUSED,
    PictureReader,
    WrittenAnswer,
    written_prompt,
)
from pipeline.metrics.accuracy import AnswerRow
from pipeline.option_letters import INSTRUCTION
from pipeline.reasons import Reason
from pipeline.selection.keyframes import ChosenFrames
from stages.answer_questions import Answers
from stages.list_questions import Questions
from stages.sample_frames import Frames
from stages.select_keyframes import Keyframes

if TYPE_CHECKING:
    from pipeline.models.image_text import ImageTextModel

log = logging.getLogger("sevila")

CHARACTERS_A_TOKEN, PIXELS_A_TOKEN = 4, 28 * 28  # estimates for English text and for pictures in many models


class ReplyRow(NamedTuple):
    """The reply of a model to a question; a row of the table `replies`."""

    question_id: str
    text: str  # unchanged; empty with readout likelihood
    finish: str  # why the reply ended: stop, length, or another value of the server
    prompt_tokens: int | None  # null if the server does not report them
    reply_tokens: int | None  # likewise


class WrittenAnswers(Answers):
    """The table `answers` of `Answers`; `option_logits` are log-probabilities of the letters, empty for a written reply."""

    tables = {"answers": Answers.tables["answers"], "replies": schema_of(1, ReplyRow)}


class AnswerWithVlm(Config):
    """Which model answers (local `weights`, or `served`), and how it is asked."""

    weights: str = Field("", description="name of a Hugging Face folder of an image-text-to-text model; else `served`")
    served: str = Field(
        "", description="name of the model at an OpenAI-compatible server, whose address is OPENAI_BASE_URL"
    )
    revision: str = Field(
        "", description="your label for the revision of the served model, whose weights cannot be inspected"
    )
    readout: LetterReadout = Field(
        "likelihood",
        description="likelihood: the most probable letter at the start of the reply; generation: the one letter that a written "
        "reply names (always with a server)",
    )
    instruction: str = Field(INSTRUCTION, description="text after question and options")
    max_new_tokens: int = Field(32, ge=1, description="maximum length of a written reply")
    height: int | None = Field(None, ge=16, le=8192, description="height of the pictures in pixels; else the video's")
    precision: Literal["float32", "bfloat16"] = Field("bfloat16", description="arithmetic of a local model")

    @model_validator(mode="before")
    @classmethod
    def _server_replies_are_generated(cls, values: Any) -> Any:
        return {"readout": "generation"} | values if values.get("served") else values

    @model_validator(mode="after")
    def _one_model(self) -> AnswerWithVlm:
        if self.served and (self.weights or self.readout == "likelihood"):
            raise ValueError("served = ... goes without weights, and with readout = 'generation'")
        return self


def plan_by_videos(
    cfg: AnswerWithVlm,
    run: RunContext,
    questions: Questions,
    frames: Frames,
    keyframes: Keyframes,
    videos: VideoFiles,
) -> Plan:
    """Cut the videos with questions into shards by the size of their pictures."""
    asked = _asked_videos(questions, frames, keyframes, videos)
    sizes = [3 * len(video.frame_indices) * video.pixels_of_one(cfg.height) for video in asked]
    return Plan(cut(sizes, run.shard_bytes))


@stage(version=1, output=WrittenAnswers, plan=plan_by_videos, gpu=True)
def answer_with_vlm(
    cfg: AnswerWithVlm,
    run: RunContext,
    questions: Questions,
    frames: Frames,
    keyframes: Keyframes,
    videos: VideoFiles,
    weights: Weights | None,
    *,
    out: ShardedOutput,
) -> None:
    """Answer every question from its keyframes by another model, local or at a server."""
    asked = _asked_videos(questions, frames, keyframes, videos)
    with closing(_reader(cfg, run, weights)) as reader:
        if cfg.served:
            log.info("requests to %s: %s", cfg.served, _estimate(cfg, asked))
        tokens: Counter[str] = Counter()
        examples: dict[str, Reason] = {}

        def work(shard: Shard) -> None:
            shard_videos = [asked[item] for item in shard.items]
            with shard.phase("answer"):
                requests = ask_videos(shard_videos, reader, cfg.height, run.decode_workers)
                pending = list(chain.from_iterable(track(requests, shard, "video", len(shard_videos))))
                answers = [answer() for answer in pending]
            for answer in answers:
                tokens.update(prompt=answer.prompt_tokens or 0, reply=answer.reply_tokens or 0)
            chosen = [chosen for video in shard_videos for _, chosen in video.questions]
            rows = list(map(_answer_row, chosen, answers))
            shard.dropped.update(row.reason.code for row in rows if row.reason)
            examples.update((row.reason.code, row.reason) for row in rows)
            shard.write_rows("answers", rows)
            shard.write_rows("replies", [_reply_row(*pair) for pair in zip(chosen, answers, strict=True)])

        out.each_shard(work)
    if cfg.served and tokens:
        log.info("%s used %s prompt tokens and %s reply tokens", cfg.served, *(f"{n:,}" for n in tokens.values()))
    n_asked = sum(len(video.questions) for video in asked)
    out.refuse_all(ANSWERS, n_asked, f"the model gave no question finite values; {BROKEN}")
    for code in (REFUSED, GARBAGE):
        out.refuse_all(code, n_asked, f"{cfg.served} answered no question; the last reason: {examples.get(code, code)}")


def _asked_videos(
    questions: Questions, frames: Frames, keyframes: Keyframes, videos: VideoFiles
) -> list[QuestionsOfVideo]:
    """Return the questions of each video, in the order of Keyframes."""
    questions_by_id = questions.by_id()
    files = {video.video_id: video for video in videos.videos}
    sampled = {video.video_id: video for video in frames.videos()}
    rows = typed_rows_of_all(keyframes, "keyframes", questions, ChosenFrames)
    return [
        QuestionsOfVideo(
            files[video_id], sampled[video_id], [(questions_by_id[row.question_id], row) for row in video_rows]
        )
        for video_id, video_rows in groupby(rows, key=lambda row: row.video_id)
    ]


def _reader(cfg: AnswerWithVlm, run: RunContext, weights: Weights | None) -> PictureReader:
    if cfg.served:
        from pipeline.inference.chat_server import ServedVlm

        server = ServerPlace.of_environment(cfg.served)
        pace = run.server_requests, run.server_requests_per_minute
        return ServedVlm(server, cfg.served, cfg.instruction, cfg.max_new_tokens, *pace)
    if weights is None:
        raise RecipeError(
            "[answer_with_vlm] weights is empty; expected the name of a local model, or `served` with that of a served one"
        )
    return LocalVlm(partial(_load, cfg, run, weights), cfg.readout, cfg.instruction, cfg.max_new_tokens)


def _load(cfg: AnswerWithVlm, run: RunContext, weights: Weights) -> ImageTextModel:
    from pipeline.models.image_text import ImageTextModel

    def load() -> ImageTextModel:
        assert weights.path is not None
        model = ImageTextModel(weights.path, run.torch_device(), cfg.precision)
        weights.refuse_changed()
        return model

    return resident(weights, "image-text model", cfg.precision, run, load)


def _answer_row(chosen: ChosenFrames, answer: WrittenAnswer) -> AnswerRow:
    row = AnswerRow(chosen.question_id, chosen.video_id, "failed" if answer.reason else "ok", answer.reason)
    n_frames = 0 if answer.reason else len(chosen.frame_indices)
    return row._replace(prediction=answer.prediction, option_logits=answer.log_probabilities, n_frames=n_frames)


def _reply_row(chosen: ChosenFrames, answer: WrittenAnswer) -> ReplyRow:
    return ReplyRow(chosen.question_id, answer.text, answer.finish, answer.prompt_tokens, answer.reply_tokens)


def _estimate(cfg: AnswerWithVlm, asked: Sequence[QuestionsOfVideo]) -> str:
    """Describe the size of the requests to a server, to be shown before they are sent."""
    n_questions = n_pictures = n_tokens = 0
    for video in asked:
        for question, chosen in video.askable:
            n_questions, n_pictures = n_questions + 1, n_pictures + len(chosen.frame_indices)
            n_tokens += len(chosen.frame_indices) * video.pixels_of_one(cfg.height) // PIXELS_A_TOKEN
            n_tokens += len(written_prompt(question, cfg.instruction)) // CHARACTERS_A_TOKEN
    return (
        f"{n_questions:,} questions with {n_pictures:,} pictures: about {n_tokens:,} tokens, and at most "
        f"{n_questions * cfg.max_new_tokens:,} of replies; shards already answered are not sent again"
    )
