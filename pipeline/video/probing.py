"""Probing of videos: the real number of frames, whether the file is complete, and which decoder can read it.

decord is the official code's decoder, but it takes a truncated file for a shorter video, and silently returns wrong frames of
several kinds of file. One pass over the packets (milliseconds) detects both. Only files for other decoders are decoded here, once
and completely, so that the outcome does not depend on how many frames are sampled.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import av

from cache.errors import DecodeError
from pipeline.video.containers import best_video_stream, open_container
from pipeline.video.end_of_file import missing_end
from pipeline.video.frames import VideoProbe
from pipeline.video.image_folder import probe_images
from pipeline.video.mp4_boxes import lost_fragments, promised_frames
from pipeline.video.pictures import (
    UPRIGHT,
    errors_of,
    first_orientation,
    ignore_progress,
    pictures,
    pyav_log,
    refuse_damage,
    refuse_damaged_vp9,
)

# Verified frame by frame. decord miscounts frames after a seek in MPEG-TS, MPEG-PS and AVI.
DECORD_CONTAINERS = ("mov", "matroska")
DECORD_CODECS = ("h264", "hevc", "mpeg4", "vp8", "vp9", "mjpeg")  # decord cannot read AV1
MAX_FRAMES = 4_000_000  # 37 hours at 30 frames a second; a file of a few bytes can promise billions
MAX_FRAMES_PER_SECOND = 1000
# Formats without timestamps: FFmpeg assumes 25 frames a second unless the codec's headers have a rate.
WITHOUT_TIMES = (
    *("h261", "h263", "h264", "hevc", "vvc", "av1", "obu", "vc1", "dirac", "mpegvideo", "m4v", "mjpeg"),
    *("jpeg_pipe", "png_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe", "gif_pipe"),
)
TS_PACKET_BYTES = 188
# MPEG-TS: the packets' own marks are lost or one picture early, as FFmpeg splits packets into pictures.
MARKED = re.compile(r"Packet corrupt \(stream = (\d+), dts = (-?\d+|NOPTS)\)")


def probe(
    path: Path, image_folder_fps: float | None = None, on_progress: Callable[[], None] = ignore_progress
) -> VideoProbe:
    """Probe a video file, or a folder of numbered images shown at `image_folder_fps` frames a second.

    `on_progress` is called regularly during long work. Raises DecodeError, whose message is a stable code (missing, empty,
    unreadable, no_video_stream, no_frame_rate, truncated, corrupt), a colon and details.
    """
    try:
        if path.is_dir():
            return probe_images(path, image_folder_fps, on_progress)
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size == 0:
            raise DecodeError("empty: file of 0 bytes")
        video = _probe_packets(path, on_progress)
        return _checked(path, video, on_progress)
    except FileNotFoundError:
        raise DecodeError(f"missing: there is no file or folder {path.name}") from None
    except (av.FFmpegError, OSError) as error:
        raise DecodeError(f"unreadable: {error.strerror or error}") from None


def count_frames(path: Path, video: VideoProbe, on_progress: Callable[[], None]) -> VideoProbe:
    """Return `video` with the frame count of PyAV. Raises DecodeError or av.FFmpegError if any part of the file is damaged."""
    n_frames = sum(1 for _ in pictures(path, on_progress))
    if n_frames < 1:
        raise DecodeError("none of its packets gives a picture")
    return replace(video, n_frames=n_frames, duration_seconds=n_frames / video.fps)


def _checked(path: Path, video: VideoProbe, on_progress: Callable[[], None]) -> VideoProbe:
    """Return `video` after the checks that decode the file. Raises DecodeError."""
    try:
        if video.codec == "vp9":
            refuse_damaged_vp9(path, on_progress)
        return video if video.decoder == "decord" else count_frames(path, video, on_progress)
    except (av.FFmpegError, DecodeError) as error:
        raise DecodeError(f"corrupt: pyav: {getattr(error, 'strerror', None) or error}") from None


@dataclass
class _Packets:
    """Facts of one pass over a file's packets; the lists have the packets with a picture, in decode order."""

    times: list[int | None] = field(default_factory=list)  # in ticks of the stream
    decode_times: list[int | None] = field(default_factory=list)  # likewise
    is_keyframe: list[bool] = field(default_factory=list)
    n_discarded: int = 0
    n_damaged: int = 0
    n_hidden: int = 0  # packets without a displayed picture, which are not in the lists
    end_seconds: float = 0.0  # end of the last packet of any stream

    @property
    def count(self) -> int:
        return len(self.times) + self.n_hidden


def _read_packets(container: Any, stream: Any, on_progress: Callable[[], None]) -> _Packets:
    packets = _Packets()
    codec = stream.codec_context.codec.canonical_name
    end_ticks: dict[int, int] = {}  # of the last packet of each stream
    for packet in container.demux():
        pts, index = packet.pts, packet.stream_index
        if packet.size == 0 and packet.dts is None:
            continue  # PyAV's marker for the end of a stream
        if pts is not None:
            end_ticks[index] = max(end_ticks.get(index, 0), pts + (packet.duration or 0))
        if index != stream.index:
            continue
        packets.n_damaged += packet.is_corrupt
        if _is_hidden(codec, packet):
            packets.n_hidden += 1
            continue
        packets.times.append(pts)
        packets.decode_times.append(packet.dts)
        packets.is_keyframe.append(packet.is_keyframe)
        packets.n_discarded += packet.is_discard
        if packets.count % 256 == 0:
            on_progress()
        _refuse_too_many(packets.count)
    time_bases = {index: container.streams[index].time_base for index in end_ticks}
    packets.end_seconds = float(
        max((ticks * (time_bases[index] or 0) for index, ticks in end_ticks.items()), default=0)
    )
    return packets


def _refuse_too_many(n_frames: int) -> None:
    if n_frames > MAX_FRAMES:
        raise DecodeError(f"unreadable: more than {MAX_FRAMES:,} frames")


def _is_hidden(codec: str, packet: av.Packet) -> bool:
    """Return whether a packet is only a reference for later pictures (VP8, VP9: by the frame header)."""
    if packet.size == 0 or codec not in ("vp8", "vp9"):
        return packet.size == 0
    header = memoryview(packet)
    if codec == "vp8":
        return not header[0] & 0x10
    if header[-1] & 0xE0 != 0xC0:  # not a superframe
        repeats, _, shows = (0x04, 0x02, 0x01) if header[0] & 0x30 == 0x30 else (0x08, 0x04, 0x02)  # profile 3
        return not header[0] & (repeats | shows)
    return False


def _probe_packets(path: Path, on_progress: Callable[[], None]) -> VideoProbe:
    _refuse_too_many(promised_frames(path))  # before FFmpeg allocates memory for them
    with pyav_log() as log, open_container(path) as container:
        stream = best_video_stream(container)
        header_log = list(log)
        log.clear()  # headers may have fields unknown to FFmpeg
        n_indexed = len(stream.index_entries)
        packets = _read_packets(container, stream, on_progress)
        errors = errors_of(log, container.format.name)
        container_name = container.format.name.split(",")[0]
        if container_name == "mpegts":
            packets.n_damaged = _n_marked(path, [*header_log, *log], stream, packets)
        codec = stream.codec_context.codec.canonical_name
        _refuse_incomplete(path, container, stream, packets)
        if container_name == "avi" and packets.count < n_indexed:
            raise DecodeError(f"truncated: the index names {n_indexed} frames, file holds {packets.count}")
        try:
            refuse_damage(errors)
        except DecodeError as error:
            raise DecodeError(f"corrupt: {error}") from None
        fps = _frame_rate(container_name, stream, packets)
        width, height, n_streams = stream.width, stream.height, len(container.streams.video)
    n_frames = len(packets.times) - packets.n_discarded
    if n_frames < 1:
        raise DecodeError("empty: the video stream holds no frames")
    why_not_decord = _why_not_decord(container_name, codec, packets) or _why_not_upright(path, container_name)
    notes = [why_not_decord] if why_not_decord else []
    if n_streams > 1:
        notes.append(f"{n_streams} video streams, the best one was read")
    decoder = "pyav" if why_not_decord else "decord"
    return VideoProbe(n_frames, fps, n_frames / fps, width, height, codec, container_name, decoder, "; ".join(notes))


def _frame_rate(container_name: str, stream: Any, packets: _Packets) -> float:
    """Return the frames a second of the header, or else of the timestamps. Raises DecodeError."""
    # AVI has decode times only: numbers of pictures that include repeated ones; its header's rate is unreliable.
    shown_at = packets.decode_times if container_name == "avi" else packets.times
    times = [time for time in shown_at if time is not None]
    span = (max(times) - min(times)) * stream.time_base if times else 0
    measured = (len(times) - 1) / span if span else None
    rates = [stream.average_rate, stream.guessed_rate, measured]
    if packets.n_hidden or container_name == "avi":
        rates = [measured, *rates]  # FFmpeg counts packets without a picture too
    elif container_name in WITHOUT_TIMES and len(packets.times) > 1:
        rates = [stream.codec_context.framerate]
    for rate in rates:
        if rate and 0 < rate <= MAX_FRAMES_PER_SECOND:
            return float(rate)
    if rates[0]:
        raise DecodeError(f"no_frame_rate: {float(rates[0]):g} frames a second is not to be believed")
    raise DecodeError("no_frame_rate: neither the header nor the timestamps give a frame rate")


def _refuse_incomplete(path: Path, container: Any, stream: Any, packets: _Packets) -> None:
    """Raise DecodeError if the file has less than its header or index promises."""
    container_name = container.format.name.split(",")[0]
    if container_name == "mov" and stream.frames and packets.count != stream.frames:
        # Compared without the edit list, which may hide or repeat frames.
        with open_container(path, ignore_editlist="1") as raw:
            unedited = _read_packets(raw, raw.streams[stream.index], ignore_progress)
        held = unedited.count - unedited.n_damaged
        if held < stream.frames:
            raise DecodeError(f"truncated: header promises {stream.frames} frames, file holds {held}")
    if container_name == "mov" and (reason := lost_fragments(path, stream.id)):
        raise DecodeError(f"truncated: {reason}")
    if reason := missing_end(path, container_name):
        raise DecodeError(f"truncated: {reason}")
    if container_name == "matroska" and container.duration and stream.average_rate:
        promised = container.duration / av.time_base
        tolerance = 0.25 + 2 / float(stream.average_rate)  # the last frame's duration is often missing
        if packets.end_seconds + tolerance < promised:
            raise DecodeError(f"truncated: header promises {promised:.2f} s, file holds {packets.end_seconds:.2f} s")
    if packets.n_damaged:
        raise DecodeError(f"corrupt: the container marks {packets.n_damaged} of {packets.count} frames as damaged")


def _n_marked(path: Path, log: list[tuple[int, str, str]], stream: Any, packets: _Packets) -> int:
    """Return how many packets of MPEG-TS are incomplete, by FFmpeg's log.

    Where files were concatenated, the packet counters restart, and FFmpeg marks the packet before as corrupt. It is complete if
    no packet was cut, a keyframe follows without a gap in time, and decoding finds no damage.
    """
    marks = {match[2] for _, _, text in log if (match := MARKED.search(text)) and int(match[1]) == stream.index}
    steps = [
        (before, after - before, is_keyframe)
        for (before, after), is_keyframe in zip(pairwise(packets.decode_times), packets.is_keyframe[1:], strict=True)
        if before is not None and after is not None
    ]
    usual = median([ticks for _, ticks, _ in steps] or [0])
    joins = {str(before) for before, ticks, is_keyframe in steps if is_keyframe and ticks <= 1.5 * usual}
    is_uncut = path.stat().st_size % TS_PACKET_BYTES == 0
    # HEVC's decoder does not report truncated pictures.
    reports_damage = stream.codec_context.codec.canonical_name in ("h264", "mpeg2video")
    return len(marks - joins if is_uncut and reports_damage else marks)


def _why_not_decord(container_name: str, codec: str, packets: _Packets) -> str:
    """Return why decord would fail or return wrong frames; "" if it would not."""
    if container_name not in DECORD_CONTAINERS:
        return f"not decord: {container_name} container"
    if codec not in DECORD_CODECS:
        return f"not decord: {codec} codec"
    if packets.n_discarded:
        return f"not decord: an edit list hides {packets.n_discarded} frames"
    if packets.n_hidden:
        return f"not decord: {packets.n_hidden} packets hold no picture"
    if not packets.is_keyframe[0]:
        return "not decord: begins without a keyframe"
    times = [time for time in packets.times if time is not None]
    if len(set(times)) < len(packets.times):
        return "not decord: timestamps missing or repeated"
    # decord seems to take a keyframe's position in the file for its position in display order. In open groups of pictures
    # (x265's default) frames stored after the keyframe are displayed before it, and decord is some frames off after a seek.
    by_time = sorted(range(len(times)), key=lambda i: times[i])
    if any(packets.is_keyframe[i] and place != i for place, i in enumerate(by_time)):
        return "not decord: open groups of pictures"
    return ""


def _why_not_upright(path: Path, container_name: str) -> str:
    """Return why decord, which applies rotation in mov and mp4 only, would not return upright pictures; "" if it would."""
    turned = first_orientation(path)
    a, b, c, d = turned
    if a * d - b * c < 0:
        return "not decord: mirrored pictures"
    return "not decord: turned pictures" if turned != UPRIGHT and container_name != "mov" else ""
