"""Videos -> the frames the model will see, decoded once and stored."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pipeline.decoding import DecoderPool, check_decoders
from pydantic import Field

from cache.tables import Schema
from pipeline.sources import VideoFiles
from pipeline.stage import Artifact, Config, RunContext, Shard, ShardedOutput, stage
from stages.progress import track
from stages.sharding import cut


class Frames(Artifact):
    """Sampled frames: uint8 [frames, size, size, 3] per video in HDF5, and which frame stands where in each clip."""

    kind = "frames"
    tables = {
        "videos": Schema(
            1,
            video_id="string",
            status="string",  # ok or failed
            reason="string",  # empty when ok, else `code: details`
            note="string",  # what was adjusted (clip bounds clamped, ...); empty when nothing was
            content_digest="string",  # SHA-256 of the file; null: no file
            decoder="string",  # decord, pyav or images: which one read the file; null when it failed
            codec="string",
            n_frames_in_video="int32",
            frames_per_second="float64",
            duration_seconds="float64",
            width="int32",
            height="int32",
            n_frames="int32",  # stored frames: the distinct ones over all clips; 0 when failed
            shard="int32",
            number="int32",  # position in the shard's HDF5 file; null when failed
        ),
        "frames": Schema(
            1,
            clip_id="string",
            video_id="string",
            position="int32",  # 0, 1, ... in time order within the clip; a short clip may repeat a frame
            frame_index="int64",  # in the video
            seconds="float64",
            row="int32",  # of the video's stored frames
        ),
    }

    def read(self, video: dict[str, Any], rows: slice) -> np.ndarray:
        """Return stored frames of a row of `videos`: uint8 [rows, size, size, 3]."""
        return _open_shard(self, "frames", video["shard"]).read(video["number"], rows)


class SampleFrames(Config):
    """Which frames to take of each clip."""

    sampling: Literal["uniform", "random", "fixed_rate"] = Field(
        "uniform", description="midpoints of equal intervals; a seeded draw in each interval; or so many a second"
    )
    frames: int = Field(32, ge=1, description="frames per clip (uniform, random)")
    frames_per_second: float = Field(1.0, gt=0, description="density (fixed_rate)")
    seed: int = Field(0, ge=0, description="seed of the draw (random)")
    size: int = Field(224, ge=8, description="width and height in pixels that frames are squashed to")
    image_folder_frames_per_second: float = Field(3.0, gt=0, description="rate of videos given as folders of images")
    decoder: str = Field("decord-0.6.0", description="decoder and version; another one is another artifact")
    fallback_decoder: str = Field("pyav-18", description="decoder for files that the first one misreads")


@stage(version=1, output=Frames, sharded=True)
def sample_frames(cfg: SampleFrames, run: RunContext, videos: VideoFiles, *, out: ShardedOutput) -> None:
    """Decode the chosen frames of every clip once; a video that cannot be read becomes a row with the reason."""
    check_decoders(cfg.decoder, cfg.fallback_decoder)
    bytes_a_video = cfg.size * cfg.size * 3 * cfg.frames

    def plan() -> tuple[list[list[int]], dict[str, Any]]:
        return cut(list(range(len(videos.videos))), [bytes_a_video] * len(videos.videos), run.shard_bytes), {}

    def work(shard: Shard) -> None:
        wanted = [videos.videos[item] for item in shard.items]
        rows: list[dict[str, Any]] = []
        positions: list[dict[str, Any]] = []
        with (
            shard.phase("decode"),
            DecoderPool(run.decode_workers, run.decode_timeout_seconds, cfg.size) as decoders,
            shard.arrays("frames") as arrays,
        ):
            results = decoders.decode(_request(video, cfg) for video in wanted if video.path is not None)
            for video in track(wanted, "sample_frames", "video"):
                ...
        shard.write_rows("videos", rows)
        shard.write_rows("frames", positions)

    out.each_shard(plan, work)
