"""Frames scored by a selector that was trained on answers, all frames of a clip at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from pipeline.datasets.question import Question
from pipeline.engine.output import Shard, ShardedOutput
from pipeline.engine.progress import track
from pipeline.engine.stage import Config, RunContext, stage
from pipeline.inference.backbone import Backbone
from pipeline.inference.frame_by_frame import plan_videos
from pipeline.inference.frame_scoring import score_shards
from pipeline.inference.load_models import OnDemand, load_answerer
from pipeline.inference.selector_scoring import frame_vectors, question_vectors
from pipeline.inference.visual_windows import VideoFeatures, Windows
from pipeline.memory import Halving
from pipeline.models.prompts import answering_text
from pipeline.selection.frame_scores import columns_of_question, joined_columns
from stages.extract_features import Features
from stages.init_answerer import AnswererWeights
from stages.list_questions import Questions
from stages.sample_frames import Frames
from stages.score_frames import FrameScores
from stages.train_selector import SelectorWeights


class ScoreBySelector(Config):
    """How frames are scored; the question is put as in the selector's training."""

    precision: Literal["float32", "bfloat16"] = Field("float32", description="arithmetic; bfloat16 on a GPU")


@stage(version=1, output=FrameScores, plan=plan_videos, gpu=True)
def score_by_selector(
    cfg: ScoreBySelector,
    run: RunContext,
    questions: Questions,
    frames: Frames,
    features: Features,
    backbone: Backbone,
    answerer: AnswererWeights,
    selector: SelectorWeights,
    *,
    out: ShardedOutput,
) -> None:
    """Score every frame of every question's clip; the score stands in `logit_yes` and `probability_yes`, `logit_no` is 0."""
    videos, by_video, clips = features.videos(), features.questions_by_video(questions), frames.clips_of(questions)
    windows, prompt = Windows(features, run.torch_device(), answerer), selector.record.config["prompt"]
    halving = Halving("score_by_selector")
    models = OnDemand(lambda: (load_answerer(run, backbone, answerer, cfg.precision), selector.load(run)))

    def score(shard: Shard, ok: list[VideoFeatures]) -> Mapping[str, np.ndarray]:
        model, scorer = models.model
        parts: list[dict[str, np.ndarray]] = []
        with shard.phase("score"):
            read = frame_vectors(windows, model, ok, shard.settings["batch_frames"])
            for video, vectors in zip(track(ok, shard, "video"), read, strict=True):
                of_video: list[Question] = by_video[video.video_id]
                texts, truncated = question_vectors(model, halving, [answering_text(prompt, each) for each in of_video])
                for question, text, was_cut in zip(of_video, texts, truncated, strict=True):
                    clip = clips[video.video_id, question.clip_id]
                    scores = scorer.scores(vectors, clip["row"], text)
                    parts.append(columns_of_question(question, clip, scores, was_cut))
        return joined_columns(parts)

    score_shards(out, videos, by_video, "the selector", score)
