"""Embedding: frames -> vectors of CLIP or SigLIP, computed once for all questions."""

from __future__ import annotations

from functools import partial
from typing import Literal

from pydantic import Field

from pipeline.batching import cut
from pipeline.engine.hardware import tokens_at_once
from pipeline.engine.output import ShardedOutput
from pipeline.engine.stage import Config, Plan, RunContext, stage
from pipeline.inference.frame_encoding import Encoder, Encoding, encode_frames, larger_types
from stages.extract_features import Features
from stages.import_embedder import EmbedderWeights
from stages.sample_frames import Frames


class Embeddings(Features):
    """A unit vector per frame, by video: float32 [frames, width], rows as in Frames; for example [32, 768]."""

    kind = "embeddings"


class EmbedFrames(Config):
    """How to compute the vectors."""

    precision: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="arithmetic; float16 or bfloat16 on a GPU"
    )


def plan_embeddings(run: RunContext, frames: Frames, embedder: EmbedderWeights) -> Plan:
    """Cut the videos into shards by the size of their frames."""
    bytes_a_frame = 3 * int(frames.record.config["size"]) ** 2
    sizes = [video.n_frames * bytes_a_frame for video in frames.videos()]
    n_tokens = embedder.description()["n_tokens"]
    return Plan(cut(sizes, run.shard_bytes), {"batch_frames": max(1, tokens_at_once(run) // n_tokens)})


@stage(version=1, output=Embeddings, plan=plan_embeddings, gpu=True, begins_on="frames")
def embed_frames(
    cfg: EmbedFrames, run: RunContext, frames: Frames, embedder: EmbedderWeights, *, out: ShardedOutput
) -> None:
    """Embed every stored frame once, resized to the model's input size."""
    content = {"config": cfg.model_dump(), "encoder": embedder.identity()}
    shape, load = (embedder.description()["width"],), partial(_encoder, cfg, run, embedder)
    fix = larger_types(precision=cfg.precision)
    encode_frames(frames, Encoding("the model", content, shape, "float32", load, fix), run, out)


def _encoder(cfg: EmbedFrames, run: RunContext, embedder: EmbedderWeights) -> Encoder:
    return embedder.load(run, cfg.precision).of_frames
