"""Whether a file has the end that its format promises, of which FFmpeg says nothing: a last page, a trailer, a size."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

OGG_TAIL_BYTES = 1 << 18  # a page is at most 65,307 bytes long
RIFF_SIZE_AT_MOST = 0xFFFFFF00  # larger: written by what could not go back to the header
ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
ASF_BROADCAST = 1
GIF_IMAGE, GIF_EXTENSION, GIF_TRAILER = 0x2C, 0x21, 0x3B


def missing_end(path: Path, container_name: str) -> str:
    """Why the file at `path` is not whole, or "" if it is, or if its format marks no end."""
    checks = {"ogg": _missing_ogg_end, "gif": _missing_gif_end, "avi": _missing_avi_end, "asf": _missing_asf_end}
    check = checks.get(container_name)
    if check is None:
        return ""
    with path.open("rb") as file:
        return check(file)


def _missing_ogg_end(file: BinaryIO) -> str:
    """RFC 3533: the last page of a stream is marked as such."""
    file.seek(max(0, _size(file) - OGG_TAIL_BYTES))
    tail = file.read()
    place, page = len(tail), b""
    while page[4:5] != b"\0" and place >= 0:  # version; else the four letters are a picture's bytes
        place = tail.rfind(b"OggS", 0, place)
        page = tail[place:] if place >= 0 else b""
    if len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        return "the file ends inside an Ogg page"
    return "" if page[5] & 0x04 else "no Ogg page is marked as the last one"


def _missing_avi_end(file: BinaryIO) -> str:
    """RIFF: each of the outermost parts says how long it is."""
    held, place = _size(file), 0
    while header := _read_at(file, place, 8):
        kind, length = struct.unpack("<4sI", header)
        if kind != b"RIFF" or not 0 < length < RIFF_SIZE_AT_MOST:
            return ""
        place += 8 + length + length % 2
        if place > held + 1:
            return f"header promises {place} bytes, file holds {held}"
    return ""


def _missing_asf_end(file: BinaryIO) -> str:
    """The properties in the header say how long the file is, unless it was sent while it was written."""
    held, head = _size(file), file.read(1 << 16)
    place = head.find(ASF_FILE_PROPERTIES)
    if place < 0 or place + 92 > len(head):
        return ""
    (promised,), (flags,) = struct.unpack_from("<Q", head, place + 40), struct.unpack_from("<I", head, place + 88)
    return (
        f"header promises {promised} bytes, file holds {held}" if held < promised and not flags & ASF_BROADCAST else ""
    )


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _read_at(file: BinaryIO, place: int, n_bytes: int) -> bytes:
    """So many bytes, or none if there are fewer."""
    file.seek(place)
    content = file.read(n_bytes)
    return content if len(content) == n_bytes else b""


def _missing_gif_end(file: BinaryIO) -> str:
    """GIF89a: blocks one after the other, the last of which is the trailer."""
    header = file.read(13)
    if len(header) == 13:
        _skip_colours(file, header[10])
    while block := file.read(1):
        if block[0] == GIF_TRAILER:
            return ""
        if block[0] == GIF_IMAGE:
            descriptor = file.read(9)
            _skip_colours(file, descriptor[8] if len(descriptor) == 9 else 0)
        elif block[0] != GIF_EXTENSION:
            return ""  # not as the standard has it; FFmpeg may still read it
        file.seek(1, os.SEEK_CUR)  # the kind of extension, or the code size
        while size := file.read(1):
            if size[0] == 0:
                break
            file.seek(size[0], os.SEEK_CUR)
    return "the file ends before a GIF's trailer"


def _skip_colours(file: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        file.seek(3 << (flags & 7) + 1, os.SEEK_CUR)
