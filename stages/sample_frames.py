"""Sampling: videos -> the frames that models read, decoded once and stored."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from cache.errors import DecodeError, ReadingError
from cache.fingerprint import fingerprint
from cache.pool import Pool, part_rows
from cache.pool_listing import PARTS
from pipeline.batching import cut, runs_of
from pipeline.engine.joined import refuse_cut
from pipeline.engine.output import Shard, ShardedOutput
from pipeline.engine.pooled import PooledArtifact
from pipeline.engine.progress import count_bar, track
from pipeline.engine.row_schema import schema_of
from pipeline.engine.sources import VideoFile, VideoFiles
from pipeline.engine.stage import Config, Plan, RunContext, stage
from pipeline.inference.streams import behind
from pipeline.reasons import Reason
from pipeline.video.attempts import Attempts
from pipeline.video.decoding import DecodeRequest, DecodeResult, check_decoders
from pipeline.video.frames import (
    Clip,
    Clips,
    EverySecondSampling,
    FixedRateSampling,
    RandomSampling,
    SampledFrame,
    SampledVideo,
    Sampling,
    UniformSampling,
)
from pipeline.video.lanes import DecoderPool, KeyedRequest
from pipeline.video.stored_video import STORED_FRAMES, StoredVideo, WrittenVideo, held_frames, store_video, stored_video
from stages.list_questions import Questions

# Decoders that since version 3 may return another picture for frame n of a file, so that older features are not reused.
REVISED = {"pyav": "pyav 3", "images": "images 3"}
PUBLISHERS = 2  # minimum number of threads that sync and digest written videos; one for each decoder
MOST_UNPUBLISHED = 2  # maximum number of pieces of a video that are written but not yet published
ASSUMED_SECONDS = 600.0  # duration of a video for the plan of shards of fixed-rate frames, before it is probed


class Frames(PooledArtifact):
    """Sampled frames: uint8 [frames, size, size, 3] per video in the pool, and the frames of each clip."""

    kind = "frames"
    tables = {
        "parts": PARTS,
        "videos": schema_of(2, SampledVideo),
        "frames": schema_of(1, SampledFrame, frame_index="int64"),
    }

    def videos(self) -> Sequence[SampledVideo]:
        """Return the outcome of each video, by ascending id."""
        return self.typed_rows("videos", SampledVideo)

    def clips(self) -> Clips:
        """Return, per (video_id, clip_id), its frames in time order: `frame_index`, `seconds` and stored `row`, each [T]."""
        table = self.columns("frames", "video_id", "clip_id", "frame_index", "seconds", "row")
        runs = runs_of(table.pop("video_id"), table.pop("clip_id"))
        stored: dict[str, list[np.ndarray]] = defaultdict(list)
        for (video_id, _), where in runs.items():
            stored[video_id].append(table["row"][where])
        n_stored = [(id, len(np.unique(np.concatenate(rows)))) for id, rows in stored.items()]
        wanted = [(video.video_id, video.n_frames) for video in self.videos() if video.status == "ok"]
        refuse_cut(self, n_stored, self, wanted, "videos with their frames")
        return {clip: {name: values[where] for name, values in table.items()} for clip, where in runs.items()}

    def clips_of(self, questions: Questions) -> Clips:
        """Return `clips` of these questions; raises `CorruptArtifactError` unless frames and questions are of the same videos."""
        clips, videos = self.clips(), self.videos()
        of_questions = {(row.video_id, row.clip_id) for row in questions.clips()}
        refuse_cut(self, [video.video_id for video in videos], questions, {id for id, _ in of_questions}, "videos")
        failed = {video.video_id for video in videos if video.status != "ok"}
        wanted = {clip for clip in of_questions if clip[0] not in failed}
        refuse_cut(self, clips, questions, wanted, "clips")
        return clips

    def frame_indices(self) -> dict[str, np.ndarray]:
        """Return the indices of the stored frames of each readable video, in the order of rows: int64 [rows], ascending."""
        table = self.columns("parts", "video_id", "frame_indices")
        parts: dict[str, list[np.ndarray]] = defaultdict(list)  # one, or of a long video several
        for video_id, indices in zip(table["video_id"], table["frame_indices"], strict=True):
            parts[video_id].append(indices)
        wanted = [(video.video_id, video.n_frames) for video in self.videos() if video.status == "ok"]
        refuse_cut(
            self, [(id, sum(map(len, of))) for id, of in parts.items()], self, wanted, "videos with their frames"
        )
        return {id: of[0] if len(of) == 1 else np.sort(np.concatenate(of)) for id, of in parts.items()}

    def pixel_key(self, video: SampledVideo) -> str:
        """Return the fingerprint of the pixels of a video's frames: its bytes, decoder and size."""
        config = self.record.config
        decoder = [REVISED.get(str(video.decoder), video.decoder), config["decoder"], config["fallback_decoder"]]
        return fingerprint({"content": video.content_digest, "decoder": decoder, "size": config["size"]})


class SampleFrames(Config):
    """Which frames of each clip are sampled."""

    later: ClassVar[Mapping[str, Any]] = {"most_frames": None}

    sampling: Literal["uniform", "random", "fixed_rate", "every_second"] = Field(
        "uniform",
        description="uniform: midpoints of equal intervals; random: a seeded draw in each interval; fixed_rate: "
        "frames_per_second; every_second: every n-th frame from the first, n being the integer frame rate, as in AKS",
    )
    frames: int = Field(32, ge=1, description="frames per clip (uniform, random)")
    frames_per_second: float = Field(1.0, gt=0, description="density (fixed_rate)")
    most_frames: int | None = Field(None, ge=1, description="maximum frames per clip, spread evenly (fixed_rate)")
    seed: int = Field(0, ge=0, description="seed of the draw (random)")
    size: int = Field(224, ge=8, description="width and height in pixels that frames are resized to")
    image_folder_frames_per_second: float = Field(3.0, gt=0, description="rate of videos given as folders of images")
    decoder_timeout_seconds: float = Field(
        60.0, gt=0, description="a decoder without output for longer is killed, and its video fails"
    )
    decoder: str = Field("decord-0.6.0", description="decoder and version; part of the identity")
    fallback_decoder: str = Field(
        "pyav-18.1.0", description="decoder for files that the first one cannot read correctly"
    )


def plan_clips(cfg: SampleFrames, run: RunContext, videos: VideoFiles) -> Plan:
    """Cut the videos into shards by the size of their clips' frames, estimated before decoding."""
    rate = {"fixed_rate": cfg.frames_per_second, "every_second": 1.0}.get(cfg.sampling)
    frames_per_clip = cfg.frames if rate is None else rate * ASSUMED_SECONDS
    bytes_per_clip = int(frames_per_clip * cfg.size * cfg.size * 3)
    return Plan(cut([bytes_per_clip * len(video.clips) for video in videos.videos], run.shard_bytes))


@stage(version=5, output=Frames, plan=plan_clips)
def sample_frames(cfg: SampleFrames, run: RunContext, videos: VideoFiles, *, out: ShardedOutput) -> None:
    """Decode the sampled frames of every clip once; an unreadable video becomes a row with the reason."""
    pool = out.pool(config=cfg.model_dump())

    def work(shard: Shard) -> None:
        shard_videos = [videos.videos[item] for item in shard.items]
        readable = {_key(video): video for video in shard_videos if video.path is not None}
        _write_tables(shard_videos, pool, _decode_missing(cfg, decoders, readable, pool, shard), shard)

    with DecoderPool(run.decode_workers, cfg.decoder_timeout_seconds, cfg.size) as decoders:
        out.each_shard(work)


def _decode_missing(
    cfg: SampleFrames, decoders: DecoderPool, readable: Mapping[str, VideoFile], pool: Pool, shard: Shard
) -> Attempts:
    """Decode the videos, by key, whose frames are not in the pool; return the attempts and failures of each."""
    attempts = Attempts()

    def is_stored(key: str) -> bool:
        return stored_video(pool, key) is not None

    def decode(keys: Iterator[str]) -> Iterator[str]:
        check_decoders((cfg.decoder, cfg.fallback_decoder))

        def requests() -> Iterator[KeyedRequest]:
            while not attempts.is_hopeless and (key := next(keys, None)) is not None:
                request, held = _request(readable[key], cfg), held_frames(pool, key)
                again, failure = attempts.is_repeated(key), attempts.decord_failure(key)
                request = dataclasses.replace(request, is_repeated=again, decord_failure=failure, held=held)
                yield KeyedRequest(key, request)

        with ThreadPoolExecutor(max(PUBLISHERS, decoders.processes)) as publishers:

            def write(key: str, result: DecodeResult) -> WrittenVideo:
                return _write(readable[key], key, result, pool, shard, publishers)

            for written in behind(decoders.decode(requests(), write), max(PUBLISHERS, decoders.processes)):
                for publication in written.published:
                    publication.result()
                attempts.note(written.key, written.error)
                yield written.key

    with shard.phase("decode"):
        pool.make(track(readable, shard, "video"), is_stored, decode)
        while left := [key for key in readable if not attempts.is_over(key) and not is_stored(key)]:
            decoders.renew()
            pool.make(attempts.next_round(left), is_stored, decode)
    return attempts


def _write_tables(videos: Sequence[VideoFile], pool: Pool, attempts: Attempts, shard: Shard) -> None:
    rows: list[SampledVideo] = []
    clips: list[dict[str, np.ndarray]] = []
    parts: list[dict[str, Any]] = []
    for video in videos:
        stored = stored_video(pool, _key(video)) if video.path is not None else None
        if stored is not None:
            rows.append(_row(video, stored))
            clips += _frames_of_clips(video, stored)
            parts += part_rows(video.video_id, stored.frame_indices, stored.parts)
        else:
            rows.append(_failed(video, video.reason or attempts.reasons[_key(video)]))
            shard.dropped[rows[-1].reason.code] += 1
    shard.write_rows("videos", rows)
    none, names = np.empty(0, np.int64), Frames.tables["frames"].columns
    shard.write_columns("frames", {name: np.concatenate([none, *(clip[name] for clip in clips)]) for name in names})
    shard.write_rows("parts", parts)


def _key(video: VideoFile) -> str:
    """Return the fingerprint of a video's frames under one config: its bytes and the bounds of its clips, not its name."""
    return fingerprint([video.digest, _bounds(video)])


def _bounds(video: VideoFile) -> list[tuple[float | None, float | None]]:
    return sorted({(start_seconds, end_seconds) for _, start_seconds, end_seconds in video.clips}, key=str)


def _request(video: VideoFile, cfg: SampleFrames) -> DecodeRequest:
    assert video.path is not None and video.digest is not None
    sampling: Sampling
    if cfg.sampling == "uniform":
        sampling = UniformSampling(cfg.frames)
    elif cfg.sampling == "random":
        # Seeded by the video's content: a draw depends neither on the order of work nor on the other videos.
        sampling = RandomSampling(cfg.frames, (cfg.seed, int(video.digest[:16], 16)))
    elif cfg.sampling == "fixed_rate":
        sampling = FixedRateSampling(cfg.frames_per_second, cfg.most_frames)
    else:
        sampling = EverySecondSampling()
    clips = tuple(Clip(*bounds) for bounds in _bounds(video))
    fps = cfg.image_folder_frames_per_second
    return DecodeRequest(video.path, sampling, clips, fps, video.digest, video.stamp)


def _write(
    video: VideoFile, key: str, result: DecodeResult, pool: Pool, shard: Shard, publishers: ThreadPoolExecutor
) -> WrittenVideo:
    """Write a decoded video's frames."""
    published: list[Future[None]] = []
    failure: DecodeError | ReadingError | None = None

    def publish(finish: Callable[[], None]) -> None:
        if len(published) >= MOST_UNPUBLISHED:
            published[-MOST_UNPUBLISHED].result()
        published.append(publishers.submit(finish))

    try:
        if result.error is not None:
            raise result.error
        n_frames = len(result.frame_indices)
        name = f"{shard.stage.name}, {video.video_id}"
        with count_bar(name, n_frames, "frame") if n_frames > STORED_FRAMES else nullcontext(int) as on_written:
            store_video(pool, key, result, publish, on_written)
    except DecodeError as error:
        failure = error
    except ReadingError as error:
        failure = ReadingError(f"video {video.video_id!r} ({video.path}): {error}")
    return WrittenVideo(key, failure, published)


def _row(video: VideoFile, stored: StoredVideo) -> SampledVideo:
    probe = stored.probe
    notes = [probe["note"], *(clip["note"] for clip in stored.clips)]
    return SampledVideo(
        video.video_id,
        "ok",
        Reason(),
        "; ".join(filter(None, dict.fromkeys(notes))),
        video.digest,
        decoder=probe["decoder"],
        codec=probe["codec"],
        n_frames_in_video=probe["n_frames"],
        frames_per_second=probe["fps"],
        duration_seconds=probe["duration_seconds"],
        width=probe["width"],
        height=probe["height"],
        n_frames=len(stored.frame_indices),
    )


def _frames_of_clips(video: VideoFile, stored: StoredVideo) -> Iterator[dict[str, np.ndarray]]:
    """Yield each clip's rows of the table `frames`, as columns: a long video has too many for an object each."""
    clips = dict(zip(_bounds(video), stored.clips, strict=True))
    stored_indices = np.array(stored.frame_indices, np.int64)
    for clip_id, start_seconds, end_seconds in video.clips:
        indices = np.array(clips[start_seconds, end_seconds]["frame_indices"], np.int64)
        ids = {"clip_id": clip_id, "video_id": video.video_id}
        yield {name: np.full(len(indices), id, object) for name, id in ids.items()} | {
            "position": np.arange(len(indices)),
            "frame_index": indices,
            "seconds": indices / stored.probe["fps"],
            "row": np.searchsorted(stored_indices, indices),
        }


def _failed(video: VideoFile, reason: str) -> SampledVideo:
    return SampledVideo(video.video_id, "failed", Reason(reason), "", video.digest)
