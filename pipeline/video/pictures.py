"""The pictures that a video file really gives, decoded from its beginning with PyAV."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type

from cache.errors import DecodeError
from pipeline.video.containers import best_video_stream, open_container

# Decoders patch a damaged picture with its neighbours and say so only in their logs: h264, then mpeg4.
DAMAGE = re.compile(r"error while decoding MB|Error at MB|damaged at")
# These decoders draw on grey what comes before the first keyframe; the others hold it back.
STARTS_ON_GREY = ("mpeg4", "h263", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2", "flv1")
UPRIGHT = (1, 0, 0, 1)


def nothing() -> None:
    pass


def accept_unknown_side_data() -> None:
    """Changes PyAV in this process: a kind of side data that it does not know (EXIF) would hide all that a frame has."""
    Type._missing_ = classmethod(lambda cls, value: cls.PANSCAN)  # type: ignore[method-assign,assignment]


def pictures(path: Path, on_progress: Callable[[], None] = nothing) -> Iterator[Any]:
    """Yields the frames of a file in the order of display, as many as FFmpeg gives, without ever seeking.

    What cannot be decoded before the first keyframe is left out, as players do. Raises DecodeError or av.FFmpegError for damage
    after it, when the damaged place is reached.
    """
    with _pyav_log() as log, open_container(path) as container:
        stream = best_video_stream(container)
        stream.codec_context.thread_count = 1  # the pool's workers are the parallelism
        has_begun, has_picture = False, stream.codec_context.codec.canonical_name not in STARTS_ON_GREY
        for packet in container.demux(stream):
            has_begun = has_begun or packet.is_keyframe
            has_picture = has_picture or (packet.is_keyframe and packet.is_discard)  # drawn, and hidden by an edit list
            on_progress()
            try:
                frames = packet.decode()
            except av.InvalidDataError:
                if has_begun:
                    raise
                frames = []
            if has_begun:
                refuse_damage("\n".join(message for _, _, message in log))
            log.clear()
            for frame in frames:
                if frame.is_corrupt and has_begun:
                    raise DecodeError("a frame is damaged")
                has_picture = has_picture or frame.key_frame
                if has_picture and not frame.is_corrupt:
                    has_begun = True
                    yield frame


def first_orientation(path: Path) -> tuple[int, int, int, int]:
    """The orientation of the first picture; upright if there is none."""
    try:
        frame = next(pictures(path), None)
    except (av.FFmpegError, DecodeError):
        return UPRIGHT  # whoever reads the file will say what is wrong with it
    return UPRIGHT if frame is None else orientation(frame)


def orientation(frame: Any) -> tuple[int, int, int, int]:
    """Signs (a, b, c, d) of the display matrix: a picture's point (x, y) is shown at (a x + c y, b x + d y).

    One of the two diagonals is zero: a picture is turned by quarters and mirrored, not slanted.
    """
    if "DISPLAYMATRIX" not in frame.side_data:
        return UPRIGHT
    a, b, _, c, d = np.frombuffer(bytes(frame.side_data["DISPLAYMATRIX"]), np.int32)[:5].tolist()
    if not (a or b or c or d):
        return UPRIGHT
    is_transposed = abs(b) + abs(c) > abs(a) + abs(d)
    return (0, _sign(b), _sign(c), 0) if is_transposed else (_sign(a), 0, 0, _sign(d))


def _sign(number: int) -> int:
    return -1 if number < 0 else 1


@contextmanager
def _pyav_log() -> Iterator[list[tuple[int, str, str]]]:
    """What PyAV's FFmpeg reports: (level, source, message)."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture(local=False) as log:
            yield log
    finally:
        av.logging.set_level(level)


def refuse_damage(log: str) -> None:
    """Raises DecodeError with the first line in which a decoder reports a damaged picture."""
    if found := DAMAGE.search(log):
        line_end = log.find("\n", found.start())
        raise DecodeError(f"damaged picture: {log[found.start() : line_end if line_end >= 0 else None]}")
