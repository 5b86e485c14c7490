"""Frames -> ViT features, computed once and read by everything after."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from cache.errors import SevilaError
from cache.shards import SeriesReader
from cache.tables import Schema
from pipeline.batching import cut
from pipeline.frames import pixels
from pipeline.output import Shard, ShardedOutput
from pipeline.stage import Artifact, Config, RunContext, stage
from stages.import_backbone import Backbone
from stages.progress import track
from stages.sample_frames import Frames
from stages.streams import Rows, read_ahead, rebatch

if TYPE_CHECKING:
    from pipeline.models.vision import VisionEncoder


class Features(Artifact):
    """ViT output before any LayerNorm, per video: [frames, tokens, width], rows as in Frames; e.g. [32, 257, 1408]."""

    kind = "features"
    tables = {
        "videos": Schema(
            1,
            video_id="string",
            status="string",
            reason="string",
            n_frames="int32",
            shard="int32",
            number="int32",  # position in the shard's HDF5 file; null when failed
        )
    }

    def open(self) -> SeriesReader:
        """Return a reader of the stored features by video id."""
        places = {
            row["video_id"]: (row["shard"], row["number"]) for row in self.rows("videos") if row["status"] == "ok"
        }
        return SeriesReader(self.files("features", ".h5"), places)


class ExtractFeatures(Config):
    """How to compute and store the features."""

    precision: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="arithmetic of the ViT; float16 or bfloat16 on a GPU"
    )
    stored_as: Literal["float16", "float32"] = Field(
        "float16", description="type on disk; float32 takes twice the space"
    )


@stage(version=1, output=Features, sharded=True)
def extract_features(
    cfg: ExtractFeatures, run: RunContext, frames: Frames, backbone: Backbone, *, out: ShardedOutput
) -> None:
    """Run the frozen ViT once over every stored frame."""
    videos = frames.rows("videos")
    n_tokens, width = backbone.feature_shape()
    load = cache(lambda: backbone.vision_encoder(run, cfg.precision))

    def plan() -> tuple[list[list[int]], dict[str, Any]]:
        itemsize = np.dtype(cfg.stored_as).itemsize
        sizes = [video["n_frames"] * n_tokens * width * itemsize for video in videos]
        return cut(sizes, run.shard_bytes), {"batch_frames": max(1, run.batch_tokens // n_tokens)}

    def work(shard: Shard) -> None:
        wanted = [videos[item] for item in shard.items]
        readable = [video for video in wanted if video["status"] == "ok"]
        batch_frames = shard.settings["batch_frames"]
        batches = read_ahead(rebatch(_stored_frames(frames, readable, batch_frames), batch_frames))
        rows = []
        with shard.phase("encode"), shard.arrays("features") as arrays:
            encoded = Rows(_encode(load(), run.torch_device(), batches, cfg.stored_as)) if readable else Rows(())
            for video in track(wanted, "extract_features", "video"):
                number = None
                if video["status"] == "ok":
                    pieces = encoded.take(video["n_frames"])
                    number = arrays.add(video["n_frames"], (n_tokens, width), cfg.stored_as, pieces)
                rows.append({name: video[name] for name in ("video_id", "status", "reason", "n_frames")})
                rows[-1] |= {"shard": shard.number, "number": number}
        shard.write_rows("videos", rows)

    out.each_shard(plan, work)


def _stored_frames(frames: Frames, videos: list[dict[str, Any]], batch_frames: int) -> Iterator[np.ndarray]:
    reader = frames.open()
    for video in videos:
        for start in range(0, video["n_frames"], batch_frames):
            yield reader.read(video["video_id"], slice(start, start + batch_frames))


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
