"""A folder of images as a video: in which order its pictures come, and whether they are whole."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av

from cache.errors import DecodeError
from pipeline.video.containers import best_video_stream, open_container
from pipeline.video.frames import IMAGE_SUFFIXES, VideoProbe
from pipeline.video.image_names import missing_numbers, order_of_names

# The last bytes of a JPEG and of a PNG.
END_MARKS = {".png": b"\0\0\0\0IEND\xaeB`\x82", ".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9"}


def list_images(folder: Path) -> list[Path]:
    """The folder's images in the order that their names say (2.jpg before 10.jpg). What is no regular file is left out.

    Raises DecodeError, with the names at fault, where the names can be read as several orders, or as none.
    """
    files = (file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    every = sorted(file for file in files if file.is_file())  # as in the folder's digest
    if either := next((file.name for file in every if re.match(r"\.\d", file.name)), ""):
        raise DecodeError(
            f"unreadable: is {either} a hidden file, or a frame? Remove it, or write a number before its point (0{either})"
        )
    images = [file for file in every if file.name[0] != "."]
    places, at_fault = order_of_names([image.stem for image in images])
    if at_fault:
        names = ", ".join(images[place].name for place in at_fault[:4])
        more = f" and {len(at_fault) - 4} more" if len(at_fault) > 4 else ""
        raise DecodeError(
            f"unreadable: no clear order in the images' names, see {names}{more}; number them 1, 2, 3, ..."
        )
    return [images[place] for place in places]


def probe_images(folder: Path, fps: float | None, on_progress: Callable[[], None]) -> VideoProbe:
    """Examines a folder of images shown at `fps` frames a second. Raises DecodeError."""
    images = list_images(folder)
    if not images:
        raise DecodeError(f"no_video_stream: the folder holds no {', '.join(IMAGE_SUFFIXES)} files")
    if not fps:
        raise DecodeError("no_frame_rate: a folder of images has none of its own; give image_folder_fps")
    for image in images:  # all of them: whether the video is whole does not depend on which frames are wanted
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
    notes += [f"{name} is no regular file and was left out" for name in _no_files(folder)]
    return VideoProbe(len(images), fps, len(images) / fps, width, height, codec, "images", "images", "; ".join(notes))


def _no_files(folder: Path) -> list[str]:
    entries = [entry for entry in folder.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES]
    return sorted(entry.name for entry in entries if not entry.is_file() and entry.name[0] != ".")


def decode_image(path: Path) -> Any:
    """The picture of an image file, PyAV's frame. Raises DecodeError, with the file's name, if the image is not whole."""
    try:
        if path.suffix.lower() != ".png" and _is_half_written(path):
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


def _is_half_written(jpeg: Path) -> bool:
    content = jpeg.read_bytes()
    return content.startswith(b"\xff\xd8") and b"\xff\xd9" not in content[max(0, content.rfind(b"\xff\xda")) :]
