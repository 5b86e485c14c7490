"""Sampled frames -> small pictures of them, for reports and pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pydantic import Field

from cache.tables import Schema, read_stored
from pipeline.batching import cut
from pipeline.engine.output import Shard, ShardedOutput
from pipeline.engine.progress import track
from pipeline.engine.sources import VideoFiles
from pipeline.engine.stage import Artifact, Config, Plan, RunContext, stage
from stages.sample_frames import Frames

SHARD_BYTES = 1 << 26  # of frames: shards are read whole, one at a time, by the writer of a page
FRAMES_READ = 256  # at once: of a video of hours there are more than fit into memory


class VideoThumbnails(NamedTuple):
    """The thumbnails of a video; a row of the table `thumbnails`, which says what is what."""

    video_id: str
    width: int
    height: int
    note: str
    images: list[str]


class Thumbnails(Artifact):
    """One row per readable video: all its stored frames as pictures of one size."""

    kind = "thumbnails"
    tables = {
        "thumbnails": Schema(
            1,
            video_id="string",
            width="int32",  # of each picture, in pixels
            height="int32",  # likewise
            note="string",  # why the shape is that of the coded pictures; empty where it is the one that players show
            images="list<string>",  # WebP in base64, in the order of the video's stored frames
        )
    }

    def by_video(self) -> Iterator[VideoThumbnails]:
        """Yield the thumbnails of each video, in the order of their ids; a shard at a time is in memory."""
        schema = self.tables["thumbnails"]
        for name in self._names("thumbnails", ".parquet"):
            columns = read_stored([self.checked_file(name)], schema, list(schema.columns)).values()
            yield from map(VideoThumbnails._make, zip(*columns, strict=True))


class MakeThumbnails(Config):
    """How large they are."""

    height: int = Field(80, ge=16, le=512, description="height in pixels; very wide pictures are lower")
    quality: int = Field(50, ge=1, le=100, description="of WebP")


def plan_videos_of_thumbnails(run: RunContext, frames: Frames) -> Plan:
    """Cut the videos into shards by the size of their frames."""
    frame_bytes = 3 * frames.record.config["size"] ** 2
    return Plan(cut([frame_bytes * video.n_frames for video in frames.videos()], min(SHARD_BYTES, run.shard_bytes)))


@stage(version=1, output=Thumbnails, plan=plan_videos_of_thumbnails)
def make_thumbnails(
    cfg: MakeThumbnails, run: RunContext, frames: Frames, videos: VideoFiles | None, *, out: ShardedOutput
) -> None:
    """Make small pictures of the sampled frames, in the shape that players show; without the videos, in the coded one."""
    sampled, reader = frames.videos(), frames.open()
    files = {file.video_id: file for file in videos.videos} if videos is not None else {}

    from pipeline.video.thumbnails import (  # where no decoder is, other stages run
        shape_or_coded,
        thumbnail,
        thumbnail_size,
    )

    def work(shard: Shard) -> None:
        rows = []
        wanted = [sampled[item] for item in shard.items if sampled[item].status == "ok"]
        for video in track(wanted, shard, "video"):
            file = files.get(video.video_id)
            place = (file.path, file.digest, file.stamp) if file is not None else (None, None, ())
            with shard.phase("shape"):
                shape, note = shape_or_coded(*place, (video.width or 1, video.height or 1))
            size = thumbnail_size(shape, cfg.height)
            with shard.phase("shrink"):
                images = [
                    thumbnail(frame, size, cfg.quality)
                    for start in range(0, reader.n_rows(video.video_id), FRAMES_READ)
                    for frame in reader.read(video.video_id, slice(start, start + FRAMES_READ))
                ]
            rows.append(VideoThumbnails(video.video_id, *size, note, images))
        shard.write_rows("thumbnails", rows)

    out.each_shard(work)
