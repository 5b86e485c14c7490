"""The pictures of a report: thumbnails, which are stored as an artifact, are written to one file per video."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import orjson

from cache.errors import SevilaError
from cache.store import Store
from pipeline.engine.build import build
from pipeline.engine.sources import Sources, VideoFiles
from pipeline.engine.stage import Artifact, RunContext
from stages.list_questions import Questions
from stages.make_thumbnails import MakeThumbnails, Thumbnails, make_thumbnails
from stages.sample_frames import Frames

log = logging.getLogger("sevila")


def thumbnails_of(
    store: Store, frames_id: str, questions_id: str, sources: Sources, pin: Callable[[str | None, str, str], None]
) -> Thumbnails:
    """Return the thumbnails of sampled frames, from the store or built now, in the videos' aspect ratio if they are available.

    Raises the errors of `build`.
    """
    frames, run, cfg = Frames(store, frames_id), RunContext(store, sources=sources), MakeThumbnails.model_validate({})
    by_digest = VideoFiles(frames.record.inputs["videos"])  # enough for the artifact's id
    for videos in (by_digest, None):
        if store.exists(id := str(make_thumbnails.artifact_id(cfg, [frames, videos]))) and store.is_current(id):
            pin(id, make_thumbnails.name, "")
            return Thumbnails(store, id)
    inputs: list[Artifact | VideoFiles | None] = [frames, _available_videos(store, frames, questions_id, sources)]
    pin(make_thumbnails.artifact_id(cfg, inputs), make_thumbnails.name, "")
    artifact = build(make_thumbnails, cfg, run, inputs)
    assert isinstance(artifact, Thumbnails)
    return artifact


def _available_videos(store: Store, frames: Frames, questions_id: str, sources: Sources) -> VideoFiles | None:
    """Return the videos that the frames were sampled from; None if they are not available with the same content."""
    questions = Questions(store, questions_id)
    try:
        videos = sources.videos(questions.record.config["dataset"], questions)
    except (SevilaError, OSError) as error:
        log.info("the report shows frames in their coded aspect ratio: %s", error)
        return None
    return videos if not videos.problem and videos.id == frames.record.inputs["videos"] else None


def write_pictures_of(
    thumbnails: Thumbnails, number: int, videos: Mapping[str, int], shown: Mapping[str, set[int]], folder: Path
) -> int:
    """Write a file for each video with the pictures of its shown frames.

    Returns the number of videos of which only the coded aspect ratio is known.

    Args:
        number: Number of the sampling in the report.
        videos: Numbers of the videos in the report, by id.
        shown: Rows of the stored frames to show, by video id.
    """
    folder.mkdir(parents=True, exist_ok=True)
    n_coded = 0
    for video in thumbnails.by_video():
        rows = sorted(row for row in shown.get(video.video_id, ()) if row < len(video.images))
        if rows and video.video_id in videos:
            name = f"{number}-{videos[video.video_id]}"
            images = orjson.dumps({str(row): video.images[row] for row in rows})
            text = b'R.thumbs("%s",%d,%d,%s)\n' % (name.encode(), video.width, video.height, images)
            (folder / f"{name}.js").write_bytes(text)
            n_coded += bool(video.note)
    return n_coded
