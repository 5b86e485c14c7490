"""A folder of images as a video: in which order its pictures come, and whether they are whole."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av

from cache.errors import DecodeError
from pipeline.containers import best_video_stream, open_container
from pipeline.frames import IMAGE_SUFFIXES, VideoProbe

WHOLE, DECIMAL = r"(\d+)", r"(\d+\.\d+|\d+)"
# The last bytes of a JPEG and of a PNG.
END_MARKS = {".png": b"\0\0\0\0IEND\xaeB`\x82", ".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9"}

Numbers = list[tuple[Fraction, ...]]  # of each name, those numbers that differ between the names


def list_images(folder: Path) -> list[Path]:
    """The folder's images in the order of the numbers that differ between their names (2.jpg before 10.jpg).

    Raises DecodeError, with the names at fault, where the names can be read as several orders, or as none.
    """
    every = sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if either := next((file.name for file in every if re.match(r"\.\d", file.name)), ""):
        raise DecodeError(
            f"unreadable: is {either} a hidden file, or a frame? Remove it, or write a number before its point (0{either})"
        )
    images = [file for file in every if file.name[0] != "."]
    if len(images) < 2:
        return images
    whole, decimal = _numbers(images, WHOLE), _numbers(images, DECIMAL)
    # Is 1.10 before 1.9? In shot1_frame2, which number comes first? Where the answer matters, the order is not clear.
    readings = list(filter(None, map(_order, (whole, decimal, [numbers[::-1] for numbers in decimal]))))
    if not readings:
        raise _unclear(_strangers(images))
    order = readings[0]
    if disputed := {place for places in zip(*readings, strict=True) if len(set(places)) > 1 for place in places}:
        if not (_is_even(decimal) or _is_gapless(whole)):
            raise _unclear([images[place] for place in sorted(disputed)])
        order = _order(decimal if _is_even(decimal) else whole)
    return [images[place] for place in order]


def _numbers(images: list[Path], pattern: str) -> Numbers:
    """Empty if the names differ in more than numbers."""
    parts = [re.split(pattern, image.stem.casefold()) for image in images]
    if len({tuple(part[::2]) for part in parts}) > 1:
        return []
    columns = zip(*(map(Fraction, part[1::2]) for part in parts), strict=True)
    return list(zip(*(column for column in columns if len(set(column)) > 1), strict=True))


def _order(numbers: Numbers) -> list[int]:
    """The places of the names in order of their numbers; empty if two of them have the same."""
    return sorted(range(len(numbers)), key=numbers.__getitem__) if len(set(numbers)) == len(numbers) else []


def _is_even(numbers: Numbers) -> bool:
    """Whether the names are one number each, in equal steps, as times are."""
    steps = [next_one[0] - one[0] for one, next_one in pairwise(sorted(numbers))]
    return len(steps) > 1 and len(numbers[0]) == 1 and max(steps) - min(steps) < min(steps) / 100


def _is_gapless(numbers: Numbers) -> bool:
    """Whether the names are one number each, counted without a gap."""
    return bool(numbers) and len(numbers[0]) == 1 and max(numbers)[0] - min(numbers)[0] + 1 == len(numbers)


def _strangers(images: list[Path]) -> list[Path]:
    """Names of another form than most have, or with the same number as another one, or without any."""
    forms = [tuple(re.split(DECIMAL, image.stem.casefold())[::2]) for image in images]
    ((common, _),) = Counter(forms).most_common(1)
    if strangers := [image for image, form in zip(images, forms, strict=True) if form != common]:
        return strangers
    numbers = _numbers(images, DECIMAL)
    return [image for image, number in zip(images, numbers, strict=False) if numbers.count(number) > 1] or images


def _unclear(images: list[Path]) -> DecodeError:
    names = ", ".join(image.name for image in images[:4]) + (f" and {len(images) - 4} more" if len(images) > 4 else "")
    return DecodeError(f"unreadable: no clear order in the images' names, see {names}; number them 1, 2, 3, ...")


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
            _refuse_broken(image)
    with open_container(images[0]) as container:
        context = best_video_stream(container).codec_context
        width, height, codec = context.width, context.height, context.codec.canonical_name
    note = f"{n_missing} numbers of the image sequence are missing" if (n_missing := _n_missing(images)) else ""
    return VideoProbe(len(images), fps, len(images) / fps, width, height, codec, "images", "images", note)


def _n_missing(images: list[Path]) -> int:
    numbers = _numbers(images, DECIMAL)
    if not numbers or len(numbers[0]) > 1 or any(number.denominator > 1 for (number,) in numbers):
        return 0
    return int(max(numbers)[0] - min(numbers)[0]) + 1 - len(images)


def _refuse_broken(image: Path) -> None:
    try:
        decode_image(image)
    except DecodeError as error:
        raise DecodeError(f"corrupt: images: {error}") from None


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
