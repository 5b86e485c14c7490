"""The pictures that a video file really gives, decoded from its beginning with PyAV."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type

from cache.errors import DecodeError
from pipeline.video.containers import best_video_stream, open_container

# Decoders patch a damaged picture with its neighbours, containers skip damaged bytes, and say so only in their logs, as errors.
# These errors come with whole files too: of pictures cut off, of data that are no picture, of a few bits of padding.
HARMLESS = re.compile(
    r"mmco: unref short failure|number of reference frames|co located POCs unavailable|first frame is no keyframe"
    r"|SEI type|missing picture in access unit|unable to decode APP fields|Unknown Metadata OBU"
    r"|discarding \d\d? junk bits"
)
LOST_PICTURE = re.compile(r"Skipping NALU|Skipping invalid undecodable NALU")  # HEVC's decoder only warns of it
# Looks for checksums, which few files have; and, where nothing marks the end of a picture, for bits that are left over.
CHECKS = {"err_detect": "crccheck"}
CHECKS_OF = {
    codec: {"err_detect": "crccheck+buffer"} for codec in ("wmv1", "wmv2", *(f"msmpeg4v{n}" for n in (1, 2, 3)))
}
LOG_LINE = re.compile(r"^\[[^\]]+ @ 0x[0-9a-f]+\] (.*)$", re.MULTILINE)
# These decoders draw on grey what comes before the first keyframe; the others hold it back.
STARTS_ON_GREY = ("mpeg4", "h263", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2", "flv1")
UPRIGHT = (1, 0, 0, 1)


def nothing() -> None:
    """Does nothing: for those who do not ask how far a file is read."""


def accept_unknown_side_data() -> None:
    """Changes PyAV in this process: a kind of side data that it does not know (EXIF) would hide all that a frame has."""
    Type._missing_ = classmethod(lambda cls, value: cls.PANSCAN)  # type: ignore[method-assign,assignment]


def pictures(path: Path, on_progress: Callable[[], None] = nothing) -> Iterator[Any]:
    """Yields the frames of a file in the order of display, as many as FFmpeg gives, without ever seeking.

    What cannot be decoded before the first keyframe is left out, as players do. Raises DecodeError or av.FFmpegError for damage
    after it, when the damaged place is reached.
    """
    with pyav_log() as log, open_container(path) as container:
        stream = best_video_stream(container)
        decoder = stream.codec_context
        decoder.thread_count = 1  # the pool's workers are the parallelism
        decoder.options = CHECKS_OF.get(decoder.codec.canonical_name, CHECKS)
        has_begun, has_picture = False, decoder.codec.canonical_name not in STARTS_ON_GREY
        sources, begin = (decoder.codec.name, container.format.name), None
        log.clear()  # the headers are read: what is missed in them shows in the pictures
        for packet in container.demux(stream):
            if packet.is_keyframe and begin is None:
                begin = packet.pts
            has_begun = has_begun or packet.is_keyframe
            has_picture = has_picture or (packet.is_keyframe and packet.is_discard)  # drawn, and hidden by an edit list
            on_progress()
            try:
                frames = packet.decode()
            except av.InvalidDataError:
                if has_begun:
                    raise
                frames = []
            if has_begun and not _is_before(packet, begin):
                refuse_damage(errors_of(log, *sources))
            log.clear()
            for frame in frames:
                if frame.is_corrupt and has_begun:
                    raise DecodeError("a frame is damaged")
                has_picture = has_picture or frame.key_frame
                if has_picture and not frame.is_corrupt:
                    has_begun = True
                    yield frame


def refuse_damaged_vp9(path: Path, on_progress: Callable[[], None] = nothing) -> None:
    """Raises DecodeError if libvpx finds damage after the first keyframe: FFmpeg's own decoder of VP9 sees hardly any."""
    decoder: Any = av.CodecContext.create("libvpx-vp9", "r")
    decoder.thread_count = 1
    with open_container(path) as container:
        has_begun = False
        for packet in container.demux(best_video_stream(container)):
            has_begun = has_begun or packet.is_keyframe
            on_progress()
            try:
                decoder.decode(packet if packet.size else None)
            except av.InvalidDataError as error:
                if has_begun:
                    raise DecodeError(f"damaged: libvpx: {error.strerror}") from None


def first_orientation(path: Path) -> tuple[int, int, int, int]:
    """The orientation of the first picture; upright if there is none."""
    try:
        frame = next(pictures(path), None)
    except (av.FFmpegError, DecodeError):
        return UPRIGHT  # its reader will say what is wrong with it
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
def pyav_log() -> Iterator[list[tuple[int, str, str]]]:
    """What PyAV's FFmpeg reports as warnings or errors: (level, source, message)."""
    level, skips_repeated = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.WARNING)
    av.logging.set_skip_repeated(False)  # else how often a message came is said while the next file is read
    try:
        with av.logging.Capture(local=False) as log:
            yield log
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips_repeated)


def errors_of(log: list[tuple[int, str, str]], *sources: str) -> list[str]:
    """The messages of these decoders and containers that are errors, or warn of a picture that is left out."""
    wanted = [(level, message) for level, source, message in log if source in sources]
    return [message for level, message in wanted if level <= av.logging.ERROR or LOST_PICTURE.search(message)]


def logged_lines(log: str) -> list[str]:
    """The messages in a log that FFmpeg has written as text."""
    return LOG_LINE.findall(log)


def refuse_damage(messages: Iterable[str]) -> None:
    """Raises DecodeError with the first error that is a sign of damage."""
    for message in messages:
        if not HARMLESS.search(message.strip()):
            raise DecodeError(f"damaged: {message.strip()}")


def _is_before(packet: Any, begin: int | None) -> bool:
    """Whether a packet belongs before the first keyframe on the screen: what it is drawn from may have been cut off."""
    return packet.pts is not None and begin is not None and packet.pts < begin
