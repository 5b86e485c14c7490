"""Feature extraction: frames -> ViT features or Q-Former outputs, computed once and read by all later stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from cache.errors import SevilaError
from cache.pool_listing import PARTS
from pipeline.batching import cut
from pipeline.datasets.question import Question
from pipeline.engine.hardware import tokens_at_once
from pipeline.engine.joined import refuse_cut
from pipeline.engine.output import ShardedOutput
from pipeline.engine.pooled import PooledArtifact
from pipeline.engine.row_schema import schema_of
from pipeline.engine.stage import Config, Plan, RunContext, stage
from pipeline.inference.backbone import Backbone
from pipeline.inference.frame_encoding import Encoder, Encoding, encode_frames, larger_types
from pipeline.inference.visual_prompt_weights import VisualPromptWeights
from pipeline.inference.visual_windows import PROMPTS, VideoFeatures
from pipeline.reasons import Reason
from stages.list_questions import Questions
from stages.sample_frames import Frames


class Features(PooledArtifact):
    """ViT output before any LayerNorm, by video: [frames, tokens, width], rows as in Frames; for example [32, 257, 1408].

    With level = "queries", the Q-Former outputs of Localizer and Answerer instead, if the chain has them, in this order:
    [frames, Q-Formers, queries, width], for example [36000, 2, 32, 768].
    """

    kind = "features"
    tables = {"parts": PARTS, "videos": schema_of(2, VideoFeatures)}

    def videos(self) -> Sequence[VideoFeatures]:
        """Return the videos, in the order of Frames."""
        return self.typed_rows("videos", VideoFeatures)

    def failures(self) -> dict[str, Reason]:
        """Return the reason of each video without features, by video id."""
        return {video.video_id: video.reason for video in self.videos() if video.reason}

    def questions_by_video(self, questions: Questions) -> Mapping[str, Sequence[Question]]:
        """Return the questions of each video in order; raise `CorruptArtifactError` unless both have the same videos."""
        by_video = questions.by_video()
        refuse_cut(self, [video.video_id for video in self.videos()], questions, by_video, "videos")
        return by_video


class ExtractFeatures(Config):
    """How to compute and store the features."""

    later: ClassVar[Mapping[str, Any]] = {"level": "features"}

    level: Literal["features", "queries"] = Field(
        "features",
        description="features: the ViT's features, which any Q-Former and its training can read; queries: only the outputs of "
        "the chain's Q-Formers, 15 times smaller each, for long videos: no training, and other weights extract again",
    )
    precision: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="arithmetic of the ViT; float16 or bfloat16 on a GPU"
    )
    stored_as: Literal["float16", "float32"] = Field(
        "float16", description="type on disk; float32 takes twice the space"
    )


def plan_frames(cfg: ExtractFeatures, run: RunContext, frames: Frames, backbone: Backbone) -> Plan:
    """Cut the videos into shards by the size of their features."""
    tokens, width = backbone.feature_shape()
    bytes_a_frame = tokens * width * np.dtype(cfg.stored_as).itemsize
    sizes = [video.n_frames * bytes_a_frame for video in frames.videos()]
    return Plan(cut(sizes, run.shard_bytes), {"batch_frames": max(1, tokens_at_once(run) // tokens)})


@stage(version=2, output=Features, plan=plan_frames, gpu=True, later_inputs=PROMPTS, begins_on="frames")
def extract_features(
    cfg: ExtractFeatures,
    run: RunContext,
    frames: Frames,
    backbone: Backbone,
    localizer: VisualPromptWeights | None,
    answerer: VisualPromptWeights | None,
    *,
    out: ShardedOutput,
) -> None:
    """Run the frozen ViT once over every stored frame; if Q-Formers are given, store their outputs instead."""
    prompts = [weights for weights in (localizer, answerer) if weights is not None]
    if cfg.level == "queries" and not prompts:
        raise SevilaError(
            "level = 'queries' stores the outputs of Q-Formers, but the chain uses neither a Localizer nor an Answerer"
        )
    content: dict[str, Any] = {"config": cfg.model_dump(), "encoder": backbone.encoder_fingerprint()}
    shape: tuple[int, ...] = backbone.feature_shape()
    if prompts:
        content["prompts"] = [weights.identity() for weights in prompts]
        config = backbone.config(run)
        shape = (len(prompts), config.num_query_tokens, config.qformer.hidden_size)
    load = partial(_encoder, cfg, run, backbone, prompts)
    fix = larger_types(precision=cfg.precision, stored_as=cfg.stored_as)
    encode_frames(frames, Encoding("the ViT", content, shape, cfg.stored_as, load, fix), run, out)


def _encoder(
    cfg: ExtractFeatures, run: RunContext, backbone: Backbone, prompts: Sequence[VisualPromptWeights]
) -> Encoder:
    import torch

    from pipeline.models.vision import pixels

    vision = backbone.vision_encoder(run, cfg.precision)
    if not prompts:
        return lambda frames: vision(pixels(frames))
    loaded = [weights.load(run, backbone, cfg.precision) for weights in prompts]

    def encode(frames: torch.Tensor) -> torch.Tensor:
        features = vision(pixels(frames))
        return torch.stack([prompt.query(features) for prompt in loaded], dim=1)

    return encode
