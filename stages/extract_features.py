"""Frames -> ViT features, computed once and read by everything after."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from cache.errors import SevilaError
from cache.pool import PARTS, Pool, part_rows
from cache.tables import Schema
from pipeline.batching import cut
from pipeline.frames import pixels
from pipeline.output import Shard, ShardedOutput
from pipeline.stage import Config, PooledArtifact, RunContext, stage
from stages.import_backbone import Backbone
from stages.progress import track
from stages.sample_frames import Frames
from stages.streams import read_ahead

if TYPE_CHECKING:
    from pipeline.models.vision import VisionEncoder


class Features(PooledArtifact):
    """ViT output before any LayerNorm, per video: [frames, tokens, width], rows as in Frames; e.g. [32, 257, 1408]."""

    kind = "features"
    tables = {
        "parts": PARTS,
        "videos": Schema(
            2,
            video_id="string",
            status="string",
            reason="string",
            n_frames="int32",
        ),
    }


class ExtractFeatures(Config):
    """How to compute and store the features."""

    precision: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="arithmetic of the ViT; float16 or bfloat16 on a GPU"
    )
    stored_as: Literal["float16", "float32"] = Field(
        "float16", description="type on disk; float32 takes twice the space"
    )


@stage(version=2, output=Features, sharded=True, gpu=True)
def extract_features(
    cfg: ExtractFeatures, run: RunContext, frames: Frames, backbone: Backbone, *, out: ShardedOutput
) -> None:
    """Run the frozen ViT once over every stored frame."""
    videos = frames.rows("videos")
    frame_indices = frames.frame_indices()
    n_tokens, width = backbone.feature_shape()
    load = cache(lambda: backbone.vision_encoder(run, cfg.precision))
    pool = out.pool(config=cfg.model_dump(), encoder=backbone.encoder_fingerprint())

    def plan() -> tuple[list[list[int]], dict[str, Any]]:
        itemsize = np.dtype(cfg.stored_as).itemsize
        sizes = [video["n_frames"] * n_tokens * width * itemsize for video in videos]
        return cut(sizes, run.shard_bytes), {"batch_frames": max(1, run.batch_tokens // n_tokens)}

    def work(shard: Shard) -> None:
        wanted = [videos[item] for item in shard.items]
        readable = {video["video_id"]: frames.pixel_key(video) for video in wanted if video["status"] == "ok"}
        sources: dict[str, dict[int, tuple[str, int]]] = {}  # per key, where each of its frames is stored
        for video_id, key in readable.items():
            stored = {int(index): (video_id, row) for row, index in enumerate(frame_indices[video_id])}
            sources[key] = stored | sources.get(key, {})

        def encode(keys: Iterator[str]) -> Iterator[str]:
            batches = read_ahead(_missing_batches(frames, pool, keys, sources, shard.settings["batch_frames"]))
            for (key, missing), group in groupby(batches, key=lambda batch: batch[:2]):
                pieces = _encode(load(), run.torch_device(), (pixels for *_, pixels in group), cfg.stored_as)
                pool.add(key, missing, (n_tokens, width), cfg.stored_as, pieces, {})
                yield key

        with shard.phase("encode"):
            keys = track(sources, shard, "video")
            pool.make(keys, lambda key: not pool.missing(key, list(sources[key])), encode)
        columns = ("video_id", "status", "reason", "n_frames")
        shard.write_rows("videos", [{name: video[name] for name in columns} for video in wanted])
        parts = {key: pool.parts(key) for key in sources}
        found = [part_rows(id, frame_indices[id].tolist(), parts[key]) for id, key in readable.items()]
        shard.write_rows("parts", [row for rows in found for row in rows])

    out.each_shard(plan, work)


def _missing_batches(
    frames: Frames, pool: Pool, keys: Iterator[str], sources: dict[str, dict[int, tuple[str, int]]], batch_frames: int
) -> Iterator[tuple[str, list[int], np.ndarray]]:
    """Yield, key by key, the indices of all frames that the pool lacks and a batch of these.

    No batch holds frames of two videos: a video's features shall not depend, in their last bits, on what was beside it.
    """
    reader = frames.open()
    for key in keys:
        missing = pool.missing(key, sorted(sources[key]))
        for start in range(0, len(missing), batch_frames):
            places = [sources[key][index] for index in missing[start : start + batch_frames]]
            pieces = [
                reader.read(video_id, [row for _, row in group]) for video_id, group in groupby(places, lambda p: p[0])
            ]
            yield key, missing, np.concatenate(pieces)


def _encode(encoder: VisionEncoder, device: str, batches: Iterator[np.ndarray], stored_as: str) -> Iterator[np.ndarray]:
    import torch

    for batch in batches:
        with torch.no_grad():
            output = encoder(torch.from_numpy(pixels(batch)).to(device))
        features = output.to(getattr(torch, stored_as)).cpu().numpy()
        if not np.isfinite(features).all():
            raise SevilaError(
                f"the ViT gave values that {stored_as} cannot hold; set precision or stored_as to float32"
            )
        yield features
