"""Thumbnails of stored frames in the display aspect ratio, although frames are stored as squares."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from PIL import Image

from cache.errors import DecodeError, ReadingError
from pipeline.video.image_folder import decode_image
from pipeline.video.image_names import list_images
from pipeline.video.keyframe_files import pixel_shape, upright_sides
from pipeline.video.pictures import accept_unknown_side_data, ignore_progress, pictures
from pipeline.video.video_bytes import VideoBytes

MAX_ASPECT_RATIO = 4  # a wider panorama gets a smaller height instead


def shown_shape(path: Path, digest: str | None, stamp: tuple[int, ...]) -> tuple[int, int]:
    """Return width and height of a video's first picture as players display it: upright, with square pixels.

    Raises:
        DecodeError: there is no picture.
        ReadingError: the bytes do not match `digest` and `stamp`, or cannot be read.
    """
    accept_unknown_side_data()
    with VideoBytes(path, digest, stamp, ignore_progress).checked_path(check_first=False) as checked:
        try:
            picture = decode_image(list_images(checked)[0]) if checked.is_dir() else next(pictures(checked), None)
            if picture is None:
                raise DecodeError("it has no picture")
            return upright_sides(pixel_shape(checked), None, picture)
        except av.FFmpegError as error:
            raise DecodeError(error.strerror or str(error)) from error


def shape_or_coded(
    path: Path | None, digest: str | None, stamp: tuple[int, ...], coded_size: tuple[int, int]
) -> tuple[tuple[int, int], str]:
    """Return the display size and "", or the coded size and why the display size is unknown."""
    if path is None:
        return coded_size, "the video was not at hand"
    try:
        return shown_shape(path, digest, stamp), ""
    except (DecodeError, ReadingError) as error:
        return coded_size, str(error)


def thumbnail_size(size: tuple[int, int], height: int) -> tuple[int, int]:
    """Return width and height in pixels of thumbnails of a video with this display size."""
    video_width, video_height = size
    factor = min(height / video_height, MAX_ASPECT_RATIO * height / video_width)
    return max(2, round(video_width * factor)), max(2, round(video_height * factor))


def thumbnail(frame: np.ndarray, size: tuple[int, int], quality: int) -> str:
    """Return a frame, uint8 [H, W, 3], as WebP of this width and height in base64."""
    stream = BytesIO()
    Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC).save(stream, "WEBP", quality=quality, method=2)
    return b64encode(stream.getvalue()).decode("ascii")


def as_jpeg(frame: np.ndarray) -> bytes:
    """Return an RGB frame, uint8 [H, W, 3], as a JPEG file."""
    stream = BytesIO()
    Image.fromarray(frame).save(stream, "JPEG", quality=90)
    return stream.getvalue()
