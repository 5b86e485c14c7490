"""Opening of video files as self-contained containers, whatever their suffix: a file cannot make FFmpeg open another one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av

from cache.errors import DecodeError

# FFmpeg's names of self-contained formats. Excluded: concat, hls, dash, sdp, image2 and others that open further files.
SELF_CONTAINED = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "m4v", "asf", "flv", "ogg", "gif", "apng", "mxf", "gxf", "nut"),
    *("h261", "h263", "h264", "hevc", "vvc", "av1", "obu", "ivf", "vc1", "dirac", "dv", "rm", "wtv", "dhav", "yuv4mpegpipe"),
    *("mjpeg", "jpeg_pipe", "png_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe", "gif_pipe"),
    *("mp3", "aac", "wav", "flac"),  # opened so that the reason can be that they hold no video
)  # fmt: skip
PLAYLISTS = {b"ffconcat": "ffconcat", b"#EXTM3U": "m3u8", b"<MPD": "DASH", b"[playlist]": "pls", b"<asx": "ASX"}


@contextmanager
def open_container(path: Path, **options: str) -> Iterator[Any]:
    """Yield the file at `path` as a PyAV container. Raises DecodeError for unsupported formats, av.FFmpegError, OSError."""
    with path.open("rb", buffering=0) as file:
        _refuse_playlist(file.read(4096))
        file.seek(0)
        # Without its name: FFmpeg guesses formats from some suffixes, and takes a % in the name of a .jpg for a pattern.
        reader = _ReadUntilError(file)
        nameless = SimpleNamespace(read=reader.read, seek=file.seek, tell=file.tell, seekable=file.seekable)
        options |= {"format_whitelist": ",".join(SELF_CONTAINED), "protocol_whitelist": "none"}
        try:
            container = av.open(nameless, "r", options=options)
        except av.ArgumentError:
            raise DecodeError(
                "unreadable: not a video container that is read here (mp4, mkv, webm, avi, ...)"
            ) from None
        with container:
            yield container
        if reader.error is not None:
            raise reader.error


class _ReadUntilError:
    """A file that is at its end after the first read error, as PyAV prints a second error instead of raising it."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def read(self, n_bytes: int) -> bytes:
        if self.error is not None:
            return b""
        try:
            return self._file.read(n_bytes) or b""
        except OSError as error:
            self.error = error
            raise


def best_video_stream(container: Any) -> Any:
    """Return FFmpeg's choice of video stream, which decord reads too; cover art does not count. Raises DecodeError."""
    stream = container.streams.best("video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        kinds = sorted({other.type for other in container.streams}) or ["nothing"]
        raise DecodeError(f"no_video_stream: the file holds {', '.join(kinds)} only")
    if stream.codec_context is None:
        raise DecodeError("unreadable: its codec is unknown")
    return stream


def _refuse_playlist(head: bytes) -> None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for mark, kind in PLAYLISTS.items():
        if text[: len(mark)].lower() == mark.lower() or (text.startswith(b"<?xml") and mark in text):
            raise DecodeError(f"unreadable: a playlist ({kind}) that names other files; give the video itself")
