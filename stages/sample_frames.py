"""Videos -> the frames the model will see, decoded once and stored."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from cache.errors import DecodeError
from cache.shards import SeriesReader, ShardWriter
from cache.tables import Schema
from pipeline.batching import cut, runs_of
from pipeline.decoding import DecodeRequest, DecodeResult, DecoderPool, check_decoders
from pipeline.frames import Clip, FixedRateSampling, RandomSampling, Sampling, UniformSampling
from pipeline.output import Shard, ShardedOutput
from pipeline.sources import VideoFile, VideoFiles
from pipeline.stage import Artifact, Config, RunContext, stage
from stages.progress import track

Clips = dict[tuple[str, str], dict[str, np.ndarray]]

ASSUMED_SECONDS = 600.0  # shards of fixed-rate frames are cut before anybody knows how long the videos are


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

    def open(self) -> SeriesReader:
        """Return a reader of the stored frames by video id: uint8 [rows, size, size, 3]."""
        places = {
            row["video_id"]: (row["shard"], row["number"]) for row in self.rows("videos") if row["status"] == "ok"
        }
        return SeriesReader(self.files("pixels", ".h5"), places)

    def clips(self) -> Clips:
        """Return, per (video_id, clip_id), its frames in time order: `frame_index`, `seconds` and stored `row`, each [T]."""
        table = self.columns("frames", "video_id", "clip_id", "frame_index", "seconds", "row")
        runs = runs_of(table.pop("video_id"), table.pop("clip_id"))
        return {clip: {name: values[where] for name, values in table.items()} for clip, where in runs.items()}


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
    decoder_timeout_seconds: float = Field(
        60.0, gt=0, description="a decoder that is silent for longer is killed, its video failed"
    )
    decoder: str = Field("decord-0.6.0", description="decoder and version; another one is another artifact")
    fallback_decoder: str = Field("pyav-18.1.0", description="decoder for files that the first one misreads")


@stage(version=1, output=Frames, sharded=True)
def sample_frames(cfg: SampleFrames, run: RunContext, videos: VideoFiles, *, out: ShardedOutput) -> None:
    """Decode the chosen frames of every clip once; a video that cannot be read becomes a row with the reason."""
    frames_a_clip = cfg.frames_per_second * ASSUMED_SECONDS if cfg.sampling == "fixed_rate" else cfg.frames

    def plan() -> tuple[list[list[int]], dict[str, Any]]:
        bytes_a_clip = int(frames_a_clip * cfg.size * cfg.size * 3)
        return cut([bytes_a_clip * len(video.clips) for video in videos.videos], run.shard_bytes), {}

    def work(shard: Shard) -> None:
        check_decoders((cfg.decoder, cfg.fallback_decoder))
        wanted = [videos.videos[item] for item in shard.items]
        rows: list[dict[str, Any]] = []
        positions: list[dict[str, Any]] = []
        with (
            shard.phase("decode"),
            DecoderPool(run.decode_workers, cfg.decoder_timeout_seconds, cfg.size) as decoders,
            shard.arrays("pixels") as arrays,
        ):
            results = decoders.decode(_request(video, cfg) for video in wanted if video.path is not None)
            for video in track(wanted, "sample_frames", "video"):
                row = (
                    _failed(video, video.reason)
                    if video.path is None
                    else _store(video, next(results), arrays, cfg.size)
                )
                row["shard"] = shard.number
                positions += row.pop("positions")
                rows.append(row)
                if row["status"] != "ok":
                    shard.dropped[row["reason"].split(":")[0]] += 1
        shard.write_rows("videos", rows)
        shard.write_rows("frames", positions)

    out.each_shard(plan, work)


def _request(video: VideoFile, cfg: SampleFrames) -> DecodeRequest:
    assert video.path is not None and video.digest is not None
    sampling: Sampling
    if cfg.sampling == "uniform":
        sampling = UniformSampling(cfg.frames)
    elif cfg.sampling == "random":
        # Seeded by the video's content: a draw depends neither on the order of work nor on the other videos.
        sampling = RandomSampling(cfg.frames, (cfg.seed, int(video.digest[:16], 16)))
    else:
        sampling = FixedRateSampling(cfg.frames_per_second)
    clips = tuple(Clip(start_seconds, end_seconds) for _, start_seconds, end_seconds in video.clips)
    return DecodeRequest(video.path, sampling, clips, cfg.image_folder_frames_per_second)


def _store(video: VideoFile, result: DecodeResult, arrays: ShardWriter, size: int) -> dict[str, Any]:
    """Write a decoded video's frames and return its row, with those of its clips under `positions`."""
    if result.reason or result.probe is None:
        return _failed(video, result.reason)
    try:
        number = arrays.add(len(result.frame_indices), (size, size, 3), "uint8", result.frames)
    except DecodeError as error:
        return _failed(video, str(error))
    if not video.is_unchanged():
        return _failed(video, "changed: the file was replaced while it was read; run again")
    probe = result.probe
    return _failed(video, "") | {
        "status": "ok",
        "note": "; ".join(filter(None, dict.fromkeys([probe.note, *(clip.note for clip in result.clips)]))),
        "decoder": probe.decoder,
        "codec": probe.codec,
        "n_frames_in_video": probe.n_frames,
        "frames_per_second": probe.fps,
        "duration_seconds": probe.duration_seconds,
        "width": probe.width,
        "height": probe.height,
        "n_frames": len(result.frame_indices),
        "number": number,
        "positions": _positions(video, result),
    }


def _positions(video: VideoFile, result: DecodeResult) -> list[dict[str, Any]]:
    assert result.probe is not None
    rows = []
    for (clip_id, _, _), clip in zip(video.clips, result.clips, strict=True):
        stored = np.searchsorted(result.frame_indices, clip.frame_indices)
        for position, (frame_index, row) in enumerate(zip(clip.frame_indices.tolist(), stored.tolist(), strict=True)):
            seconds = frame_index / result.probe.fps
            rows.append(
                {"clip_id": clip_id, "video_id": video.video_id, "position": position, "frame_index": frame_index}
            )
            rows[-1] |= {"seconds": seconds, "row": row}
    return rows


def _failed(video: VideoFile, reason: str) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(Frames.tables["videos"].columns)
    row |= {"video_id": video.video_id, "status": "failed", "reason": reason, "note": ""}
    return row | {"content_digest": video.digest, "n_frames": 0, "positions": []}
