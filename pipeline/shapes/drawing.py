"""Rendering of coloured shapes on a background in numpy, for single images and video frames.

Shapes: N pictures, S pixels of height and width. Lengths and positions are fractions of the picture's side; y points down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COLOURS = {
    "red": (225, 40, 40),
    "green": (40, 175, 60),
    "blue": (50, 80, 230),
    "yellow": (235, 215, 50),
    "purple": (160, 60, 200),
    "cyan": (60, 205, 215),
    "pink": (245, 130, 175),
    "white": (240, 240, 240),
}
GREY = len(COLOURS)  # index in PAINTS of a thing before it takes on its colour
PAINTS = (*COLOURS.values(), (150, 150, 150))
SHAPES = ("square", "dot", "triangle", "bar", "cross", "ring", "pole", "moon")
NOTHING = -1  # shape of an empty picture, which has only the background


@dataclass(frozen=True)
class DrawnObjects:
    """The things in each of N pictures; all arrays [N]."""

    colour: np.ndarray  # index into COLOURS, or GREY
    shape: np.ndarray  # index into SHAPES, or NOTHING
    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray


@dataclass(frozen=True)
class Appearance:
    """The appearance of pictures, independent of their content: background, light and noise."""

    background: np.ndarray  # [N, 3] brightness of the background's three channels, 0 to 1
    slope: np.ndarray  # [N, 2] change of brightness across and down the picture
    tint: np.ndarray  # [N, 3] factor on every channel
    noise: np.ndarray  # [N] standard deviation of pixel noise
    spots: np.ndarray  # [N] strength of a coarse random pattern behind the things


def draw(things: DrawnObjects, look: Appearance, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return pictures [N, S, S, 3] uint8."""
    n = len(things.shape)
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size
    picture = np.repeat(look.background[:, None, None, :].astype(np.float32), size, axis=1).repeat(size, axis=2)
    slope = look.slope[:, 0, None, None] * (grid[None, None, :] - 0.5) + look.slope[:, 1, None, None] * (
        grid[None, :, None] - 0.5
    )
    picture += slope[..., None]
    coarse = rng.standard_normal((n, 8, 8, 3), dtype=np.float32) * look.spots[:, None, None, None]
    where = np.arange(size) * 8 // size
    picture += coarse[:, where][:, :, where]
    u = (grid[None, None, :] - things.x[:, None, None]) / things.radius[:, None, None]
    v = (grid[None, :, None] - things.y[:, None, None]) / things.radius[:, None, None]
    inside = np.zeros((n, size, size), dtype=np.float32)
    for index, name in enumerate(SHAPES):
        chosen = np.flatnonzero(things.shape == index)
        if len(chosen):
            distance = _distance(name, u[chosen], v[chosen]) * things.radius[chosen, None, None] * size
            inside[chosen] = np.clip(0.5 - distance, 0, 1)  # one pixel of soft edge
    paint = (np.array(PAINTS, dtype=np.float32) / 255)[things.colour]
    picture += inside[..., None] * (paint[:, None, None, :] - picture)
    picture *= look.tint[:, None, None, :]
    picture += rng.standard_normal(picture.shape, dtype=np.float32) * look.noise[:, None, None, None]
    return (np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _distance(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return roughly how far a point lies outside a shape (negative: inside), in units of the shape's radius."""
    match shape:
        case "square":
            return np.maximum(abs(u), abs(v)) - 0.85
        case "dot":
            return np.hypot(u, v) - 0.45
        case "triangle":
            return np.maximum(v - 0.8, (2 * abs(u) - v - 1) / 2.24)
        case "bar":
            return np.maximum(abs(u) - 1, abs(v) - 0.35)
        case "pole":
            return np.maximum(abs(u) - 0.35, abs(v) - 1)
        case "cross":
            return np.minimum(np.maximum(abs(u) - 1, abs(v) - 0.25), np.maximum(abs(v) - 1, abs(u) - 0.25))
        case "ring":
            return abs(np.hypot(u, v) - 0.8) - 0.2
        case "moon":
            return np.maximum(np.hypot(u, v) - 1, 0.85 - np.hypot(u - 0.55, v))
    raise ValueError(f"no shape is called {shape!r}")
