"""Frame scores by a selector trained on answers, for all frames of a clip jointly.

It reads a vector of each frame, the mean of the Answerer's visual tokens, and a vector of the question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from pipeline.engine.output import Shard, ShardedOutput
from pipeline.engine.progress import track
from pipeline.engine.stage import Config, RunContext, stage
from pipeline.inference.asked_videos import AskedVideo
from pipeline.inference.backbone import Backbone
from pipeline.inference.frame_by_frame import plan_videos
from pipeline.inference.frame_scoring import score_shards
from pipeline.inference.load_models import OnDemand, load_answerer
from pipeline.inference.visual_windows import WINDOW_FRAMES, VideoFeatures, Windows
from pipeline.memory import Halving
from pipeline.models.prompts import answering_text
from pipeline.precision import PRECISION_DESCRIPTION, LanguagePrecision
from pipeline.selection.frame_scores import columns_of_question, joined_columns
from stages.extract_features import Features
from stages.init_answerer import AnswererWeights
from stages.list_questions import Questions
from stages.sample_frames import Frames
from stages.score_frames import FrameScores
from stages.train_selector import SelectorWeights

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.answerer import Answerer

TEXTS_AT_ONCE = 64


class ScoreBySelector(Config):
    """How frames are scored; the prompt is that of the selector's training."""

    precision: LanguagePrecision = Field("float32", description=PRECISION_DESCRIPTION)


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
    """Score every frame of every question's clip; `logit_yes` and `probability_yes` are the score, `logit_no` is 0."""
    videos, by_video, clips = features.videos(), features.questions_by_video(questions), frames.clips_of(questions)
    windows, prompt = Windows(features, run.torch_device(), answerer), selector.record.config["prompt"]
    halving = Halving("score_by_selector")
    models = OnDemand(lambda: (load_answerer(run, backbone, answerer, cfg.precision), selector.load(run)))

    def score(shard: Shard, ok: list[AskedVideo]) -> Mapping[str, np.ndarray]:
        model, scorer = models.model
        parts: list[dict[str, np.ndarray]] = []
        with shard.phase("score"):
            frame_vectors = _frame_vectors(
                windows, model, [asked.video for asked in ok], shard.settings["batch_frames"]
            )
            for (video, asked), vectors in zip(track(ok, shard, "video"), frame_vectors, strict=True):
                texts = [answering_text(prompt, question) for question in asked]
                question_vectors, truncated = _question_vectors(model, halving, texts)
                for question, vector, is_truncated in zip(asked, question_vectors, truncated, strict=True):
                    clip = clips[video.video_id, question.clip_id]
                    scores = scorer.scores(vectors, clip["row"], vector)
                    parts.append(columns_of_question(question, clip, scores, is_truncated))
        return joined_columns(parts)

    score_shards(out, videos, by_video, "the selector", score)


def _frame_vectors(
    windows: Windows, answerer: Answerer, videos: Sequence[VideoFeatures], batch_frames: int
) -> Iterator[Tensor]:
    """Yield the vectors of each video's stored frames, [F, L] float32 on the device."""
    import torch

    groups = [
        [(video.video_id, list(range(start, min(start + WINDOW_FRAMES, video.n_frames))))]
        for video in videos
        for start in range(0, video.n_frames, WINDOW_FRAMES)
    ]
    tokens = windows.tokens(groups, answerer, batch_frames)
    for video in videos:
        n_groups = -(-video.n_frames // WINDOW_FRAMES)
        yield torch.cat([next(tokens)[1].mean(dim=1) for _ in range(n_groups)])


def _question_vectors(answerer: Answerer, halving: Halving, texts: Sequence[str]) -> tuple[Tensor, list[bool]]:
    """Return the vectors of texts, [R, L] float32, and whether each text was truncated."""
    import torch

    from pipeline.models.frame_selector import text_vectors

    ids, truncated = answerer.language.verbalizer.tokenize(texts)
    vectors, starts = partial(text_vectors, answerer.language), range(0, len(texts), TEXTS_AT_ONCE)
    parts = [part for start in starts for part in halving(vectors, ids[start : start + TEXTS_AT_ONCE])]
    return torch.cat(parts), list(truncated)
