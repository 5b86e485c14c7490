"""Stored frames as JPEG, for pages."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np


def as_jpeg(frame: np.ndarray) -> bytes:
    """Return an RGB frame, uint8 [H, W, 3], as a JPEG file."""
    encoder: Any = av.CodecContext.create("mjpeg", "w")
    height, width = frame.shape[:2]
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
    encoder.time_base, encoder.options = Fraction(1), {"qmin": "3", "qmax": "3"}
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
    picture = picture.reformat(width, height, "yuvj420p", dst_color_range="JPEG")
    picture.pts = 0
    return b"".join(bytes(packet) for part in (picture, None) for packet in encoder.encode(part))
