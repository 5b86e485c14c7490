"""Detection of failed or packed downloads by the first bytes of a file."""

from __future__ import annotations

HEAD_BYTES = 512  # enough to identify a file

_ANNEX = "a git-annex pointer, not the file it stands for; fetch that with `git annex get`"
# Placeholders for a file, by its first bytes.
_INSTEAD = {
    b"version https://git-lfs": "a Git LFS pointer, not the file it stands for; fetch that with `git lfs pull`",
    b"/annex/objects/": _ANNEX,
    b"<!doctype html": "an HTML page, as sites give instead of a file; open its address in a browser and download it again",
    b"<html": "an HTML page, as sites give instead of a file; open its address in a browser and download it again",
    b"<?xml": "an XML page, as servers give instead of a file; download it again",
}
# Archives and other formats than text, by their first bytes.
_PACKED = {
    b"\x1f\x8b": "packed by gzip; unpack it with `gunzip`",
    b"PK\x03\x04": "a zip archive, or a spreadsheet; unpack it with `unzip`, or save it as CSV",
    b"PK\x05\x06": "an empty zip archive; download it again",
    b"\xfd7zXZ\x00": "packed by xz; unpack it with `unxz`",
    b"\x28\xb5\x2f\xfd": "packed by zstd; unpack it with `unzstd`",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it",
    b"Rar!\x1a\x07": "a RAR archive; unpack it",
    b"\xd0\xcf\x11\xe0": "an old Office file; save it as CSV",
    b"%PDF-": "a PDF",
    b"PAR1\x15": "a Parquet file; write it as CSV or JSON lines",
    b"ARROW1\0": "an Arrow file; write it as CSV or JSON lines",
    b"\x89HDF\r\n": "an HDF5 file; write it as CSV or JSON lines",
    b"\x93NUMPY": "a NumPy file; write it as CSV or JSON lines",
    b"SQLite format 3": "an SQLite database; write it as CSV or JSON lines",
    b"\xff\xfe\0\0": "text in UTF-32; save the file as UTF-8",
    b"\0\0\xfe\xff": "text in UTF-32; save the file as UTF-8",
    b"\xff\xfe": "text in UTF-16; save the file as UTF-8",
    b"\xfe\xff": "text in UTF-16; save the file as UTF-8",
    bytes(16): "begins with zero bytes, as a file does whose content was never written; get it again",
}


def gone_wrong(head: bytes) -> str:
    """Return what placeholder a file with these first bytes is, with a fix; "" if it is none."""
    begin = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64].lower()
    if begin.startswith((b".git/annex/", b"../")) and b".git/annex/objects/" in begin:
        return _ANNEX  # a symbolic link, checked out as a file
    return next((problem for mark, problem in _INSTEAD.items() if begin.startswith(mark)), "")


def no_text(head: bytes) -> str:
    """Return what a file with these first bytes is instead of text, with a fix; "" if nothing is wrong."""
    packed = next((problem for mark, problem in _PACKED.items() if head.startswith(mark)), "")
    if head.startswith(b"BZh") and head[4:10] == b"1AY&SY":  # "BZh" alone may be the start of a text
        packed = "packed by bzip2; unpack it with `bunzip2`"
    if head[257:262] == b"ustar":
        packed = "a tar archive; unpack it with `tar -xf`"
    return gone_wrong(head) or packed
