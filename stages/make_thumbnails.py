"""Thumbnails of the sampled frames, for reports and pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pydantic import Field

from cache.tables import read_stored
from pipeline.batching import cut
from pipeline.engine.output import Shard, ShardedOutput
from pipeline.engine.progress import track
from pipeline.engine.row_schema import schema_of
from pipeline.engine.sources import VideoFiles
from pipeline.engine.stage import Artifact, Config, Plan, RunContext, stage
from stages.sample_frames import Frames

SHARD_BYTES = 1 << 26  # of frames; page writers read one whole shard at a time
FRAMES_READ = 256  # at once; the frames of an hour-long video may not fit into memory


class VideoThumbnails(NamedTuple):
    """All stored frames of a readable video as pictures of one size; a row of the table `thumbnails`."""

    video_id: str
    width: int  # of each picture, in pixels
    height: int  # likewise
    note: str  # why the aspect ratio is that of the coded pictures; empty if it is the display aspect ratio
    images: list[str]  # WebP in base64, in the order of the video's stored frames


class Thumbnails(Artifact):
    """One row per readable video."""

    kind = "thumbnails"
    tables = {"thumbnails": schema_of(1, VideoThumbnails, "video_id")}

    def by_video(self) -> Iterator[VideoThumbnails]:
        """Yield the thumbnails of each video, by ascending id, with one shard in memory at a time."""
        schema = self.tables["thumbnails"]
        for name in self._names("thumbnails", ".parquet"):
            columns = read_stored([self.checked_file(name)], schema, list(schema.columns)).values()
            yield from map(VideoThumbnails._make, zip(*columns, strict=True))


class MakeThumbnails(Config):
    """The size of the thumbnails."""

    height: int = Field(80, ge=16, le=512, description="height in pixels; very wide pictures are lower")
    quality: int = Field(50, ge=1, le=100, description="WebP quality")


def plan_videos_of_thumbnails(run: RunContext, frames: Frames) -> Plan:
    """Cut the videos into shards by the size of their frames."""
    frame_bytes = 3 * frames.record.config["size"] ** 2
    return Plan(cut([frame_bytes * video.n_frames for video in frames.videos()], min(SHARD_BYTES, run.shard_bytes)))


@stage(version=1, output=Thumbnails, plan=plan_videos_of_thumbnails)
def make_thumbnails(
    cfg: MakeThumbnails, run: RunContext, frames: Frames, videos: VideoFiles | None, *, out: ShardedOutput
) -> None:
    """Shrink the sampled frames in the display aspect ratio; without the videos, in that of the coded pictures."""
    # Imported here because other stages must run without a decoder.
    from pipeline.video.thumbnails import shape_or_coded, thumbnail, thumbnail_size

    sampled, reader = frames.videos(), frames.open()
    files = {file.video_id: file for file in videos.videos} if videos is not None else {}

    def work(shard: Shard) -> None:
        rows = []
        readable = [sampled[item] for item in shard.items if sampled[item].status == "ok"]
        for video in track(readable, shard, "video"):
            file = files.get(video.video_id)
            source = (file.path, file.digest, file.stamp) if file is not None else (None, None, ())
            with shard.phase("shape"):
                shape, note = shape_or_coded(*source, (video.width or 1, video.height or 1))
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
