"""Checks for the end of file that a format requires (a last page, a trailer, a size), which FFmpeg does not report."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

OGG_TAIL_BYTES = 1 << 18  # a page is at most 65,307 bytes long
MAX_RIFF_SIZE = 0xFFFFFF00  # larger values come from writers that could not seek back to the header
ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
ASF_BROADCAST = 1
GIF_IMAGE, GIF_EXTENSION, GIF_TRAILER = 0x2C, 0x21, 0x3B


def missing_end(path: Path, container_name: str) -> str:
    """Return why the file at `path` is incomplete; "" if it is complete or its format marks no end."""
    checks = {"ogg": _missing_ogg_end, "gif": _missing_gif_end, "avi": _missing_avi_end, "asf": _missing_asf_end}
    check = checks.get(container_name)
    if check is None:
        return ""
    with path.open("rb") as file:
        return check(file)


def _missing_ogg_end(file: BinaryIO) -> str:
    """Check for the flag of a stream's last page (RFC 3533)."""
    file.seek(max(0, _size(file) - OGG_TAIL_BYTES))
    tail = file.read()
    offset, page = len(tail), b""
    while page[4:5] != b"\0" and offset >= 0:  # version 0; otherwise the four letters are part of a picture
        offset = tail.rfind(b"OggS", 0, offset)
        page = tail[offset:] if offset >= 0 else b""
    if len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        return "the file ends inside an Ogg page"
    return "" if page[5] & 0x04 else "no Ogg page is marked as the last one"


def _missing_avi_end(file: BinaryIO) -> str:
    """Compare the lengths of the outermost RIFF chunks with the file's size."""
    size, offset = _size(file), 0
    while len(header := file.read(8)) == 8:
        kind, length = struct.unpack("<4sI", header)
        if kind != b"RIFF" or not 0 < length < MAX_RIFF_SIZE:
            return ""
        offset += 8 + length + length % 2
        if offset > size + 1:
            return f"header promises {offset} bytes, file holds {size}"
        file.seek(offset)
    return ""


def _missing_asf_end(file: BinaryIO) -> str:
    """Compare the size in the header's file properties, which is unset in broadcasts, with the file's size."""
    size, head = _size(file), file.read(1 << 16)
    offset = head.find(ASF_FILE_PROPERTIES)
    if offset < 0 or offset + 92 > len(head):
        return ""
    (promised,), (flags,) = struct.unpack_from("<Q", head, offset + 40), struct.unpack_from("<I", head, offset + 88)
    is_cut = size < promised and not flags & ASF_BROADCAST
    return f"header promises {promised} bytes, file holds {size}" if is_cut else ""


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _missing_gif_end(file: BinaryIO) -> str:
    """Walk the blocks of a GIF89a up to the trailer."""
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
            return ""  # not standard, but FFmpeg may still read it
        file.seek(1, os.SEEK_CUR)  # extension label or code size
        while size := file.read(1):
            if size[0] == 0:
                break
            file.seek(size[0], os.SEEK_CUR)
    return "the file ends before a GIF's trailer"


def _skip_colours(file: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        file.seek(3 << (flags & 7) + 1, os.SEEK_CUR)
