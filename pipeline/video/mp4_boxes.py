"""Numbers of frames and fragments that the boxes of an mp4 (ISO/IEC 14496-12) promise, which FFmpeg does not check."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np

Box = tuple[bytes, bytes]  # type and content


@dataclass
class _Fragment:
    number: int
    start: int | None  # decode time in ticks of the track; None: not written
    n_frames: int
    ticks: int


@dataclass
class _Track:
    """One track's fragments and the promised ones."""

    id: int
    ticks_a_second: int = 0
    default_ticks: int = 0  # duration of a frame
    fragments: list[_Fragment] = field(default_factory=list)
    promised_seconds: list[tuple[float, float]] = field(default_factory=list)  # start and end of each segment index
    n_promised: int = 0  # fragments in the table of random access points
    is_cut: bool = False  # the file ends inside a box


def lost_fragments(path: Path, track_id: int) -> str:
    """Return why fragments of a track are missing; "" if none is, or if the file is no fragmented mp4."""
    track = _Track(track_id)
    try:
        with path.open("rb") as file:
            for kind, content in _top_level(file, track):
                _read(track, kind, content)
    except (struct.error, IndexError, ValueError):
        return ""  # not standard, but FFmpeg may still read it
    if not track.fragments or not track.ticks_a_second:
        return ""
    if track.is_cut:
        return "the file ends inside a fragment"
    return _gap(track) or _shortfall(track)


def promised_frames(path: Path) -> int:
    """Return the largest frame count in the sample tables of video tracks; 0 if there is none, or the file is no mp4."""
    most = 0
    with suppress(struct.error, IndexError), path.open("rb") as file:
        for kind, moov in _top_level(file, _Track(0)):
            for name, trak in _boxes(moov) if kind == b"moov" else ():
                if name == b"trak" and _inside(trak, b"mdia", b"hdlr")[8:12] == b"vide":
                    sizes = _inside(trak, b"mdia", b"minf", b"stbl", b"stsz")
                    most = max(most, struct.unpack_from(">I", sizes, 8)[0])
    return most


def _gap(track: _Track) -> str:
    for before, after in pairwise(track.fragments):
        if after.number <= before.number + 1:
            continue
        if (
            before.start is None
            or after.start is None
            or after.start > before.start + before.ticks + _frame_ticks(track) / 2
        ):
            return f"fragment {after.number} follows on {before.number}"
    return ""


def _shortfall(track: _Track) -> str:
    if len(track.fragments) < track.n_promised:
        return f"the index names {track.n_promised} fragments, the file holds {len(track.fragments)}"
    if not track.promised_seconds:
        return ""
    promised = max(end for _, end in track.promised_seconds) - min(start for start, _ in track.promised_seconds)
    held = sum(fragment.ticks for fragment in track.fragments) / track.ticks_a_second
    if held + 0.75 * _frame_ticks(track) / track.ticks_a_second >= promised:
        return ""
    return f"the index promises {promised:.2f} s, the fragments hold {held:.2f} s"


def _frame_ticks(track: _Track) -> float:
    return sum(part.ticks for part in track.fragments) / max(1, sum(part.n_frames for part in track.fragments))


def _top_level(file: BinaryIO, track: _Track) -> Iterator[Box]:
    """Yield the header and index boxes; skip the media data."""
    size, offset = os.fstat(file.fileno()).st_size, 0
    while offset + 8 <= size:
        file.seek(offset)
        length, kind = struct.unpack(">I4s", file.read(8))
        header = 8
        if length == 1:
            (length,), header = struct.unpack(">Q", file.read(8)), 16
        length = length or size - offset
        if length < header:
            return
        if offset + length > size and kind in (b"moof", b"mdat"):
            track.is_cut = True
        if kind in (b"moov", b"moof", b"sidx", b"mfra"):
            yield kind, file.read(min(length, size - offset) - header)
        offset += length


def _boxes(content: bytes) -> Iterator[Box]:
    offset = 0
    while offset + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, offset)
        if length < 8:
            return
        yield kind, content[offset + 8 : offset + length]
        offset += length


def _inside(content: bytes, *kinds: bytes) -> bytes:
    """Return the content of the first box at a path of types. Raises IndexError."""
    for kind in kinds:
        content = [inner for name, inner in _boxes(content) if name == kind][0]  # noqa: RUF015
    return content


def _read(track: _Track, kind: bytes, content: bytes) -> None:
    if kind == b"moov":
        _read_header(track, content)
    elif kind == b"sidx":
        _read_index(track, content)
    elif kind == b"mfra":
        for name, tfra in _boxes(content):
            if name == b"tfra" and struct.unpack_from(">I", tfra, 4)[0] == track.id:
                track.n_promised = _n_access_fragments(tfra)
    else:
        (number,) = struct.unpack_from(">I", _inside(content, b"mfhd"), 4)
        for name, inner in _boxes(content):
            if name == b"traf" and struct.unpack_from(">I", _inside(inner, b"tfhd"), 4)[0] == track.id:
                track.fragments.append(_fragment(track, number, inner))


def _read_header(track: _Track, moov: bytes) -> None:
    for kind, content in _boxes(moov):
        if kind == b"trak":
            tkhd, mdhd = _inside(content, b"tkhd"), _inside(content, b"mdia", b"mdhd")
            if struct.unpack_from(">I", tkhd, 20 if tkhd[0] else 12)[0] == track.id:
                (track.ticks_a_second,) = struct.unpack_from(">I", mdhd, 20 if mdhd[0] else 12)
        if kind == b"mvex":
            for name, trex in _boxes(content):
                if name == b"trex" and struct.unpack_from(">I", trex, 4)[0] == track.id:
                    (track.default_ticks,) = struct.unpack_from(">I", trex, 12)


def _read_index(track: _Track, sidx: bytes) -> None:
    reference, ticks_a_second = struct.unpack_from(">II", sidx, 4)
    (start, _), offset = struct.unpack_from(">QQ" if sidx[0] else ">II", sidx, 12), 28 if sidx[0] else 20
    (count,) = struct.unpack_from(">H", sidx, offset + 2)
    if reference == track.id and ticks_a_second:
        ticks = sum(struct.unpack_from(">I", sidx, offset + 8 + 12 * n)[0] for n in range(count))
        track.promised_seconds.append((start / ticks_a_second, (start + ticks) / ticks_a_second))


def _n_access_fragments(tfra: bytes) -> int:
    widths, count = struct.unpack_from(">II", tfra, 8)
    time_and_offset = ">QQ" if tfra[0] else ">II"
    entry = struct.calcsize(time_and_offset) + 3 + (widths >> 4 & 3) + (widths >> 2 & 3) + (widths & 3)
    return len({struct.unpack_from(time_and_offset, tfra, 16 + entry * n)[1] for n in range(count)})


def _fragment(track: _Track, number: int, traf: bytes) -> _Fragment:
    tfhd = _inside(traf, b"tfhd")
    flags = int.from_bytes(tfhd[1:4], "big")
    frame_ticks = track.default_ticks
    if flags & 0x8:
        (frame_ticks,) = struct.unpack_from(">I", tfhd, 8 + 8 * bool(flags & 0x1) + 4 * bool(flags & 0x2))
    fragment = _Fragment(number, None, 0, 0)
    for kind, content in _boxes(traf):
        if kind == b"tfdt":
            (fragment.start,) = struct.unpack_from(">Q" if content[0] else ">I", content, 4)
        if kind == b"trun":
            flags, count = int.from_bytes(content[1:4], "big"), struct.unpack_from(">I", content, 4)[0]
            fragment.n_frames += count
            fragment.ticks += _run_ticks(content, flags, count) if flags & 0x100 else count * frame_ticks
    return fragment


def _run_ticks(trun: bytes, flags: int, count: int) -> int:
    """Return the sum of the frames' durations of a run."""
    start = 8 + 4 * bool(flags & 0x1) + 4 * bool(flags & 0x4)
    columns = sum(bool(flags & flag) for flag in (0x100, 0x200, 0x400, 0x800))
    table = np.frombuffer(trun, ">u4", count * columns, start)  # the duration is the first column
    return int(table[::columns].sum(dtype=np.int64))
