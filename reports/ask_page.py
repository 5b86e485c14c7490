"""The answer to one question as a self-contained HTML page, which shows the frames in the video's aspect ratio."""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cache.printable import printable_value
from pipeline.video.thumbnails import as_jpeg, shape_or_coded
from reports.ask_answer import AskAnswer, AskFrame, clock, percent_text
from reports.ask_run import AskRun


def answer_page(run: AskRun, answer: AskAnswer) -> str:
    """Return the page as HTML; all texts are escaped."""
    width, height = 1, 1
    strip: list[dict[str, Any]] = []
    if answer.frames:
        (video,) = run.artifacts.frames.videos()
        (width, height), _ = shape_or_coded(run.video, None, (), (video.width or 1, video.height or 1))
        (clip,) = run.artifacts.frames.clips().values()
        rows = clip["row"].tolist()
        distinct = sorted(set(rows))
        pictures = run.artifacts.frames.open().read(video.video_id, distinct)
        images = {
            row: base64.b64encode(as_jpeg(picture)).decode() for row, picture in zip(distinct, pictures, strict=True)
        }
        heights = _heights_percent(answer.frames)
        strip = [
            {
                "image": images[row],
                "time": clock(frame.seconds),
                "keyframe": frame.keyframe,
                "height": height_percent,
                "yes": "" if frame.probability_yes is None else percent_text(frame.probability_yes),
            }
            for row, frame, height_percent in zip(rows, answer.frames, heights, strict=True)
        ]
    return _environment().get_template("ask.html").render(answer=answer, strip=strip, width=width, height=height)


def _heights_percent(frames: list[AskFrame]) -> list[int | None]:
    """Return the position of each frame's score between the lowest and the highest, in percent; None without scores."""
    scores = [frame.logit_yes for frame in frames if frame.logit_yes is not None]
    if len(scores) < len(frames):
        return [None] * len(frames)
    low, high = min(scores), max(scores)
    return [round(100 * (score - low) / (high - low)) if high > low else 100 for score in scores]


@cache
def _environment() -> Environment:
    loader, escape = FileSystemLoader(Path(__file__).parent / "templates"), printable_value
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, finalize=escape)
