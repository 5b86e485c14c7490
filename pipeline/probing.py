"""Looks at a video without decoding it: how many frames it really holds, whether it is whole, and which decoder may read it.

decord is the official code's decoder, but it takes a file that was cut short for a shorter video, and in several kinds of file it
silently returns other frames than asked for. One pass over the packets (milliseconds) finds both.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av

from cache.errors import DecodeError
from pipeline.frames import IMAGE_SUFFIXES, VideoProbe

# Only what was checked frame by frame: decord miscounted frames after a seek in MPEG-TS, MPEG-PS and AVI.
DECORD_CONTAINERS = ("mov", "matroska")
DECORD_CODECS = ("h264", "hevc", "mpeg4", "vp8", "vp9", "mjpeg")  # AV1 it cannot read at all


def _nothing() -> None:
    pass


def probe(path: Path, image_folder_fps: float | None = None, on_progress: Callable[[], None] = _nothing) -> VideoProbe:
    """Examines a video file, or a folder of numbered images shown at `image_folder_fps` frames a second.

    `on_progress` is called now and then during long work. Raises DecodeError; its message is a short stable code (missing, empty,
    unreadable, no_video_stream, no_frame_rate, truncated, corrupt), a colon and details.
    """
    if path.is_dir():
        return _probe_images(path, image_folder_fps)
    try:
        status = path.stat()
    except FileNotFoundError:
        raise DecodeError(f"missing: there is no file or folder {path.name}") from None
    except OSError as error:
        raise DecodeError(f"unreadable: {error.strerror}") from None
    if stat.S_ISREG(status.st_mode) and status.st_size == 0:
        raise DecodeError("empty: file of 0 bytes")
    try:
        return _probe_file(path, on_progress)
    except (av.FFmpegError, OSError) as error:
        raise DecodeError(f"unreadable: {error.strerror or error}") from None


def best_video_stream(container: Any) -> Any:
    """The stream that decord would read too (FFmpeg's choice); cover art is not a video. Raises DecodeError."""
    stream = container.streams.best("video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        kinds = sorted({other.type for other in container.streams}) or ["nothing"]
        raise DecodeError(f"no_video_stream: the file holds {', '.join(kinds)} only")
    return stream


@dataclass
class _Packets:
    """What one pass over a file's packets found. Times of video packets are in ticks of its stream, in decode order."""

    times: list[int | None] = field(default_factory=list)
    is_keyframe: list[bool] = field(default_factory=list)
    n_discarded: int = 0
    n_damaged: int = 0
    end_seconds: float = 0.0  # where the last packet of any stream ends

    @property
    def count(self) -> int:
        return len(self.times)


def _read_packets(container: Any, stream: Any, on_progress: Callable[[], None]) -> _Packets:
    found = _Packets()
    for packet in container.demux():
        if packet.size == 0 and packet.dts is None:
            continue  # PyAV's marker for the end of a stream
        if packet.pts is not None and packet.time_base is not None:
            found.end_seconds = max(found.end_seconds, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream.index != stream.index:
            continue
        found.times.append(packet.pts)
        found.is_keyframe.append(packet.is_keyframe)
        found.n_discarded += packet.is_discard
        found.n_damaged += packet.is_corrupt
        if found.count % 256 == 0:
            on_progress()
    return found


def _probe_file(path: Path, on_progress: Callable[[], None]) -> VideoProbe:
    with av.open(str(path)) as container:
        stream = best_video_stream(container)
        packets = _read_packets(container, stream, on_progress)
        container_name = container.format.name.split(",")[0]
        codec = stream.codec_context.codec.canonical_name
        rate = stream.average_rate or stream.guessed_rate
        width, height, n_streams = stream.width, stream.height, len(container.streams.video)
        _refuse_incomplete(path, container, stream, packets)
    if not rate:
        raise DecodeError("no_frame_rate: neither the header nor the timestamps give a frame rate")
    why_not_decord = _why_not_decord(container_name, codec, packets)
    n_frames = packets.count - packets.n_discarded
    if container_name not in DECORD_CONTAINERS or codec not in (*DECORD_CODECS, "av1"):
        n_frames = _count_decoded(path, on_progress)  # there a packet is not always a frame
    if n_frames < 1:
        raise DecodeError("empty: the video stream holds no frames")
    notes = [why_not_decord] if why_not_decord else []
    if n_streams > 1:
        notes.append(f"{n_streams} video streams, the best one was read")
    decoder = "pyav" if why_not_decord else "decord"
    fps = float(rate)
    return VideoProbe(n_frames, fps, n_frames / fps, width, height, codec, container_name, decoder, "; ".join(notes))


def _refuse_incomplete(path: Path, container: Any, stream: Any, packets: _Packets) -> None:
    """Raises DecodeError if the header promises more than the file holds."""
    container_name = container.format.name.split(",")[0]
    if container_name == "mov" and stream.frames and packets.count != stream.frames:
        # An edit list may hide or repeat frames, so the header is compared with the file as it is without one.
        with av.open(str(path), options={"ignore_editlist": "1"}) as raw:
            found = _read_packets(raw, raw.streams[stream.index], _nothing)
        held = found.count - found.n_damaged
        if held < stream.frames:
            raise DecodeError(f"truncated: header promises {stream.frames} frames, file holds {held}")
    if container_name == "matroska" and container.duration and stream.average_rate:
        promised = container.duration / av.time_base
        tolerance = 0.25 + 2 / float(stream.average_rate)  # the last frame's own duration is often not written
        if packets.end_seconds + tolerance < promised:
            raise DecodeError(f"truncated: header promises {promised:.2f} s, file holds {packets.end_seconds:.2f} s")
    if packets.n_damaged:
        raise DecodeError(f"corrupt: the container marks {packets.n_damaged} of {packets.count} frames as damaged")


def _why_not_decord(container_name: str, codec: str, packets: _Packets) -> str:
    """The reason why decord would fail or return wrong frames, or an empty string."""
    if container_name not in DECORD_CONTAINERS:
        return f"not decord: {container_name} container"
    if codec not in DECORD_CODECS:
        return f"not decord: {codec} codec"
    if packets.n_discarded:
        return f"not decord: an edit list hides {packets.n_discarded} frames"
    times = [time for time in packets.times if time is not None]
    if len(set(times)) < packets.count:
        return "not decord: timestamps missing or repeated"
    # decord seems to take a keyframe's place in the file for its place on the screen. In open groups of pictures (x265's default)
    # frames stored after the keyframe are shown before it, and what decord gives after a seek is some frames off.
    by_time = sorted(range(packets.count), key=lambda i: times[i])
    if any(packets.is_keyframe[i] and place != i for place, i in enumerate(by_time)):
        return "not decord: open groups of pictures"
    return ""


def _count_decoded(path: Path, on_progress: Callable[[], None]) -> int:
    count = 0
    with av.open(str(path)) as container:
        stream = best_video_stream(container)
        stream.codec_context.thread_count = 1
        for count, _ in enumerate(container.decode(stream), start=1):  # noqa: B007
            on_progress()
    return count


def list_images(folder: Path) -> list[Path]:
    """The folder's images in the order of the numbers in their names (2.jpg before 10.jpg)."""
    images = (
        file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    )
    return sorted(images, key=lambda file: (_last_number(file), file.name))


def _last_number(file: Path) -> int:
    numbers = re.findall(r"\d+", file.stem)
    return int(numbers[-1]) if numbers else -1


def _probe_images(folder: Path, fps: float | None) -> VideoProbe:
    images = list_images(folder)
    if not images:
        raise DecodeError(f"no_video_stream: the folder holds no {', '.join(IMAGE_SUFFIXES)} files")
    if not fps:
        raise DecodeError("no_frame_rate: a folder of images has none of its own; give image_folder_fps")
    try:
        # An open file, not a name: FFmpeg would read a % in a name as a pattern.
        with images[0].open("rb") as file, av.open(file) as container:
            context = best_video_stream(container).codec_context
            width, height, codec = context.width, context.height, context.codec.canonical_name
    except (av.FFmpegError, OSError) as error:
        raise DecodeError(f"unreadable: {images[0].name}: {error.strerror or error}") from None
    n_missing = _last_number(images[-1]) - _last_number(images[0]) + 1 - len(images)
    note = f"{n_missing} numbers of the image sequence are missing" if n_missing > 0 else ""
    return VideoProbe(len(images), fps, len(images) / fps, width, height, codec, "images", "images", note)
