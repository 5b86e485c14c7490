"""Folders of images as videos: probing and decoding of the images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av

from cache.errors import DecodeError
from pipeline.video.containers import best_video_stream, open_container
from pipeline.video.frames import IMAGE_SUFFIXES, VideoProbe
from pipeline.video.image_names import list_images, missing_numbers

END_MARKS = {".png": b"\0\0\0\0IEND\xaeB`\x82", ".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9"}


def probe_images(folder: Path, fps: float | None, on_progress: Callable[[], None]) -> VideoProbe:
    """Probe a folder of images shown at `fps` frames a second. Raises DecodeError."""
    images = list_images(folder)
    if not images:
        raise DecodeError(f"no_video_stream: the folder holds no {', '.join(IMAGE_SUFFIXES)} files")
    if not fps:
        raise DecodeError("no_frame_rate: a folder of images has none of its own; give image_folder_fps")
    for image in images:  # all images, so that the outcome does not depend on which frames are sampled
        on_progress()
        if not _has_end_mark(image):
            try:
                decode_image(image)
            except DecodeError as error:
                raise DecodeError(f"corrupt: images: {error}") from None
    with open_container(images[0]) as container:
        context = best_video_stream(container).codec_context
        width, height, codec = context.width, context.height, context.codec.canonical_name
    n_missing = missing_numbers([image.stem for image in images])
    notes = [f"{n_missing} numbers of the image sequence are missing"] if n_missing else []
    notes += [f"{name} is no regular file and was left out" for name in _irregular_images(folder)]
    return VideoProbe(len(images), fps, len(images) / fps, width, height, codec, "images", "images", "; ".join(notes))


def _irregular_images(folder: Path) -> list[str]:
    entries = [entry for entry in folder.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES]
    return sorted(entry.name for entry in entries if not entry.is_file() and entry.name[0] != ".")


def decode_image(path: Path) -> Any:
    """Return the picture of an image file as PyAV's frame. Raises DecodeError, with the file's name, if it is incomplete."""
    try:
        if path.suffix.lower() != ".png" and _is_truncated_jpeg(path):
            raise DecodeError("only half written, it has no end mark")
        with open_container(path) as container:
            stream = best_video_stream(container)
            stream.codec_context.options = {"err_detect": "explode+crccheck"}
            for frame in container.decode(stream):
                return frame
        raise DecodeError("holds no picture")
    except (av.FFmpegError, OSError, DecodeError) as error:
        raise DecodeError(f"{path.name}: {getattr(error, 'strerror', None) or error}") from None


def _has_end_mark(path: Path) -> bool:
    mark = END_MARKS[path.suffix.lower()]
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - len(mark)))
            return file.read() == mark
    except OSError:
        return False


def _is_truncated_jpeg(path: Path) -> bool:
    content = path.read_bytes()
    return content.startswith(b"\xff\xd8") and b"\xff\xd9" not in content[max(0, content.rfind(b"\xff\xda")) :]
