"""Decoding of a file's pictures from its beginning with PyAV, and detection of damage."""

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

# Decoders conceal damaged pictures and demuxers skip damaged bytes; only their logs report it, as errors.
# These errors also occur with undamaged files: about pictures cut off, data other than pictures, a few bits of padding.
HARMLESS = re.compile(
    r"mmco: unref short failure|number of reference frames|co located POCs unavailable|first frame is no keyframe"
    r"|SEI type|missing picture in access unit|unable to decode APP fields|Unknown Metadata OBU"
    r"|discarding \d\d? junk bits"
)
LOST_PICTURE = re.compile(r"Skipping NALU|Skipping invalid undecodable NALU")  # only a warning of HEVC's decoder
# Check the checksums, which few files have; for codecs without an end mark of pictures, also for surplus bits.
CHECKS = {"err_detect": "crccheck"}
CHECKS_OF = {
    codec: {"err_detect": "crccheck+buffer"} for codec in ("wmv1", "wmv2", *(f"msmpeg4v{n}" for n in (1, 2, 3)))
}
LOG_LINE = re.compile(r"^\[[^\]]+ @ 0x[0-9a-f]+\] (.*)$", re.MULTILINE)  # of FFmpeg; the group is the message
# These decoders draw pictures before the first keyframe on grey; the others do not return them.
STARTS_ON_GREY = ("mpeg4", "h263", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2", "flv1")
UPRIGHT = (1, 0, 0, 1)


def ignore_progress() -> None:
    """Ignore progress."""


def accept_unknown_side_data() -> None:
    """Patch PyAV in this process, in which a frame's side data of an unknown type (EXIF) would hide all side data."""
    Type._missing_ = classmethod(lambda cls, value: cls.PANSCAN)  # type: ignore[method-assign,assignment]


def pictures(path: Path, on_progress: Callable[[], None] = ignore_progress) -> Iterator[Any]:
    """Yield the frames of a file in display order, as many as FFmpeg decodes, without seeking.

    Frames before the first keyframe that cannot be decoded are left out, as players do. Raises DecodeError or av.FFmpegError for
    damage after it, when it is reached.
    """
    with pyav_log() as log, open_container(path) as container:
        stream = best_video_stream(container)
        decoder = stream.codec_context
        decoder.thread_count = 1  # the processes of the pool run in parallel
        decoder.options = CHECKS_OF.get(decoder.codec.canonical_name, CHECKS)
        has_started, has_picture = False, decoder.codec.canonical_name not in STARTS_ON_GREY
        sources, start_pts = (decoder.codec.name, container.format.name), None
        log.clear()  # errors in the headers that matter show in the pictures
        for packet in container.demux(stream):
            if packet.is_keyframe and start_pts is None:
                start_pts = packet.pts
            has_started = has_started or packet.is_keyframe
            has_picture = has_picture or (
                packet.is_keyframe and packet.is_discard
            )  # decoded, but hidden by an edit list
            on_progress()
            try:
                frames = packet.decode()
            except av.InvalidDataError:
                if has_started:
                    raise
                frames = []
            if has_started and not _is_before(packet, start_pts):
                refuse_damage(errors_of(log, *sources))
            log.clear()
            for frame in frames:
                if frame.is_corrupt and has_started:
                    raise DecodeError("a frame is damaged")
                has_picture = has_picture or frame.key_frame
                if has_picture and not frame.is_corrupt:
                    has_started = True
                    yield frame


def refuse_damaged_vp9(path: Path, on_progress: Callable[[], None]) -> None:
    """Raise DecodeError if libvpx detects damage after the first keyframe; FFmpeg's own VP9 decoder detects hardly any."""
    decoder: Any = av.CodecContext.create("libvpx-vp9", "r")
    decoder.thread_count = 1
    with open_container(path) as container:
        has_started = False
        for packet in container.demux(best_video_stream(container)):
            has_started = has_started or packet.is_keyframe
            on_progress()
            try:
                decoder.decode(packet if packet.size else None)
            except av.InvalidDataError as error:
                if has_started:
                    raise DecodeError(f"damaged: libvpx: {error.strerror}") from None


def first_orientation(path: Path) -> tuple[int, int, int, int]:
    """Return the orientation of the first picture; upright if there is none."""
    try:
        frame = next(pictures(path), None)
    except (av.FFmpegError, DecodeError):
        return UPRIGHT  # decoding the video reports the error
    return UPRIGHT if frame is None else orientation(frame)


def orientation(frame: Any) -> tuple[int, int, int, int]:
    """Return the signs (a, b, c, d) of the display matrix: a picture's point (x, y) is shown at (a x + c y, b x + d y).

    One of the two diagonals is zero: pictures are turned by quarters and mirrored only.
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
    """Yield a list that receives the warnings and errors of PyAV's FFmpeg: (level, source, message)."""
    level, skips_repeated = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.WARNING)
    av.logging.set_skip_repeated(False)  # otherwise "last message repeated" is logged while the next file is read
    try:
        with av.logging.Capture(local=False) as log:
            yield log
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips_repeated)


def errors_of(log: list[tuple[int, str, str]], *sources: str) -> list[str]:
    """Return the errors of these decoders and containers, and their warnings of lost pictures."""
    from_sources = [(level, message) for level, source, message in log if source in sources]
    return [message for level, message in from_sources if level <= av.logging.ERROR or LOST_PICTURE.search(message)]


def refuse_damage(messages: Iterable[str]) -> None:
    """Raise DecodeError with the first message that indicates damage."""
    for message in messages:
        if not HARMLESS.search(message.strip()):
            raise DecodeError(f"damaged: {message.strip()}")


def _is_before(packet: Any, start_pts: int | None) -> bool:
    """Return whether a packet is displayed before the first keyframe: its reference pictures may have been cut off."""
    return packet.pts is not None and start_pts is not None and packet.pts < start_pts
