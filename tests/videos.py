"""Writes small real video files whose frames show their own index, and broken files of every kind.

A frame's upper half is a 2 x 6 grid of black and white blocks, its index in binary, large enough to survive lossy coding and
resizing; its lower half is a colour gradient that moves with time, so that colour conversions can be compared too.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

CODE_ROWS, CODE_COLUMNS = 2, 6


def pattern(index: int, width: int, height: int) -> np.ndarray:
    """The picture of frame `index`: uint8 [height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack([x * 255 // width, y * 255 // height, (x * 128 // width + 7 * index) % 256], axis=-1)
    code_height = height // 2
    bit = (y * CODE_ROWS // code_height) * CODE_COLUMNS + x * CODE_COLUMNS // width
    upper = y < code_height
    picture[upper] = np.where((index >> bit[upper]) & 1, 235, 16)[:, None]
    return picture.astype(np.uint8)


def read_index(frame: np.ndarray) -> int:
    """The index that a decoded frame, uint8 [H, W, 3], shows."""
    height, width = frame.shape[:2]
    index = 0
    for bit in range(CODE_ROWS * CODE_COLUMNS):
        row, column = divmod(bit, CODE_COLUMNS)
        y = int((row + 0.5) * (height // 2) / CODE_ROWS)
        x = int((column + 0.5) * width / CODE_COLUMNS)
        index |= int(frame[y, x].mean() > 128) << bit
    return index


def make_video(
    path: Path,
    n_frames: int = 48,
    fps: int | Fraction = 12,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    *,
    gop: int = 12,
    pixel_format: str = "yuv420p",
    with_audio: bool = False,
    ticks: Sequence[int] | None = None,
    codec_options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Writes `n_frames` pattern frames (container: the suffix); `ticks` are their times in 1/fps, if the rate varies."""
    rate = Fraction(fps)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=codec_options or {})
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        stream.gop_size = gop
        stream.codec_context.time_base = 1 / rate
        audio: Any = (
            container.add_stream("aac" if path.suffix in (".mp4", ".mov") else "libopus", rate=48000)
            if with_audio
            else None
        )
        for index in range(n_frames):
            frame = av.VideoFrame.from_ndarray(pattern(index, *size), format="rgb24")
            frame.pts = index if ticks is None else ticks[index]
            frame.time_base = 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio is not None:
            _mux_tone(container, audio, seconds=float(n_frames / rate))
    if codec == "libsvtav1" and os.sched_getscheduler(0) != os.SCHED_OTHER:
        # As root, SVT-AV1 gives its caller the highest real-time priority, which all later child processes inherit.
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return path


def _mux_tone(container: Any, stream: Any, seconds: float) -> None:
    samples = np.sin(np.arange(int(seconds * 48000)) * 0.05).astype(np.float32)
    for start in range(0, len(samples), 960):
        block = av.AudioFrame.from_ndarray(samples[None, start : start + 960], format="fltp", layout="mono")
        block.sample_rate, block.pts, block.time_base = 48000, start, Fraction(1, 48000)
        container.mux(stream.encode(block))
    container.mux(stream.encode(None))


def make_audio_only(path: Path, seconds: float = 1.0) -> Path:
    with av.open(str(path), "w") as container:
        _mux_tone(container, container.add_stream("aac", rate=48000, layout="mono"), seconds)
    return path


def make_garbage(path: Path, n_bytes: int = 20_000) -> Path:
    path.write_bytes(np.random.default_rng(0).bytes(n_bytes))
    return path


def make_truncated(path: Path, keep: float = 0.5, **video: Any) -> Path:
    """A file cut short. An mp4 loses its index, which lies at the end."""
    make_video(path, **video)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


def make_faststart_cut(path: Path, keep: float = 0.5, **video: Any) -> Path:
    """An mp4 with its index in front, cut short: it opens but lists missing frames."""
    return make_truncated(path, keep, container_options={"movflags": "faststart"}, **video)


def make_edit_list(path: Path, n_skipped: int, **video: Any) -> Path:
    """An mp4 whose edit list skips its first frames, as a phone writes when one trims a video without re-encoding it."""
    make_video(path, codec_options={"bf": "0"}, **video)
    content = bytearray(path.read_bytes())
    box = content.index(b"elst")
    ticks_per_frame = _media_ticks_per_frame(path)
    struct.pack_into(">i", content, box + 16, n_skipped * ticks_per_frame)  # media_time of the first entry, version 0
    path.write_bytes(content)
    return path


def _media_ticks_per_frame(path: Path) -> int:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate and stream.time_base
        return int(1 / (stream.average_rate * stream.time_base))


def rotate(path: Path, degrees: int) -> Path:
    """Adds rotation metadata to an mp4, as a phone held upright does: a player turns the picture clockwise by `degrees`."""
    a, b = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    return orient(path, a, b, -b, a)


def orient(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Writes an mp4's display matrix: a player shows the point (x, y), from the centre, at (a x + c y, b x + d y)."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40
    one = 1 << 16
    struct.pack_into(">9i", content, matrix, a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def copy_packets(source: Path, path: Path, first: int, hidden_keyframes: bool = False) -> Path:
    """Copies a file's packets from number `first` on into another container, as they are.

    With `hidden_keyframes` a VP8 file's later keyframes come twice, first as pictures that are not shown.
    """
    with av.open(str(source)) as given, av.open(str(path), "w") as container:
        old = given.streams.video[0]
        new = container.add_stream_from_template(old)
        packets = [packet for packet in given.demux(old) if packet.size][first:]
        for place, packet in enumerate(packets):
            if hidden_keyframes and packet.is_keyframe and place:
                content = bytearray(bytes(packet))
                content[0] &= ~0x10  # show_frame
                _mux_copy(container, new, packet, bytes(content), earlier=20)
            _mux_copy(container, new, packet, bytes(packet), earlier=0)
    return path


def _mux_copy(container: Any, stream: Any, packet: Any, content: bytes, earlier: int) -> None:
    copy = av.Packet(content)
    copy.stream, copy.time_base, copy.is_keyframe = stream, packet.time_base, packet.is_keyframe
    copy.pts, copy.dts, copy.duration = packet.pts - earlier, packet.dts - earlier, packet.duration
    container.mux(copy)


def top_boxes(content: bytes) -> list[tuple[bytes, int, int]]:
    """An mp4's outermost boxes: type, first byte, byte after the last."""
    boxes, place = [], 0
    while place < len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        boxes.append((kind, place, place + length))
        place += length
    return boxes


def make_fragments_lost(path: Path, lost: slice, **video: Any) -> Path:
    """A fragmented mp4 without some of its fragments and without the table at its end."""
    content = make_video(path, **video).read_bytes()
    boxes = [box for box in top_boxes(content) if box[0] != b"mfra"]
    begins = [place for place, box in enumerate(boxes) if box[0] == b"moof"]
    ends = [*begins[1:], len(boxes)]
    dropped = {place for begin, end in list(zip(begins, ends, strict=True))[lost] for place in range(begin, end)}
    path.write_bytes(b"".join(content[box[1] : box[2]] for place, box in enumerate(boxes) if place not in dropped))
    return path


def make_image_folder(path: Path, n_frames: int = 12, size: tuple[int, int] = (64, 48), suffix: str = ".jpg") -> Path:
    """`1.jpg`, `2.jpg`, ... without leading zeros: alphabetical order would put 10 before 2."""
    path.mkdir(parents=True)
    for index in range(n_frames):
        codec, pixel_format = ("mjpeg", "yuvj420p") if suffix == ".jpg" else ("png", "rgb24")
        encoder: Any = av.CodecContext.create(codec, "w")
        encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = *size, pixel_format, Fraction(1, 1)
        frame = av.VideoFrame.from_ndarray(pattern(index, *size), format="rgb24").reformat(format=pixel_format)
        packets = [*encoder.encode(frame), *encoder.encode(None)]
        (path / f"{index + 1}{suffix}").write_bytes(b"".join(bytes(packet) for packet in packets))
    return path


def make_huge_picture(path: Path, side: int = 15_000) -> Path:
    """A folder with one black picture of 225 million pixels in 1 MB, which takes about a second to decode."""
    path.mkdir()
    parts = {
        b"IHDR": struct.pack(">2I5B", side, side, 8, 0, 0, 0, 0),
        b"IDAT": zlib.compress(bytes((side + 1) * side), 1),
    }
    chunks = [(kind + content, len(content)) for kind, content in {**parts, b"IEND": b""}.items()]
    png = b"".join(struct.pack(">I", size) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk, size in chunks)
    (path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + png)
    return path
