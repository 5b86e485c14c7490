"""A small data set for the tests: mp4 files of one moving shape each, questions, and a tiny BLIP-2 with random weights.

`SMALL` is the recipe for it. The model learns nothing: the data tests the pipeline.
"""

from __future__ import annotations

import csv
from itertools import product
from pathlib import Path

import av
import numpy as np

from tests.tiny_blip2 import write_tiny_blip2

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 220), "yellow": (230, 210, 50)}
SHAPES = ("square", "circle", "triangle")
MOTIONS = ("left", "right", "up", "down")
FRAMES_PER_SECOND, SECONDS, SIZE = 8, 6, 96
SMALL = str(Path(__file__).with_name("small.toml"))


def write_small_world(folder: Path, seed: int = 0, language: str = "t5") -> None:
    """Write `videos/`, `tiny-blip2/` and, last, `questions.csv` into `folder`; the same seed gives the same content.

    Two of the videos cannot be used: one cut short and one of zero bytes. `language` is the kind of the BLIP-2's language model.
    """
    videos = folder / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    worlds = list(product(COLOURS, SHAPES, MOTIONS))
    chosen = np.random.default_rng(seed).permutation(len(worlds))[:10]
    rows = []
    for number, world in enumerate(chosen):
        colour, shape, motion = worlds[world]
        path = videos / f"{number:02d}_{colour}_{shape}.mp4"
        _render(path, colour, shape, motion)
        rows += _questions(path.stem, colour, shape, motion)
    cut, empty = sorted(videos.glob("*.mp4"))[-2:]
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    empty.write_bytes(b"")
    # Unknown words would be tokenized letter by letter and make the questions too long.
    words = {word for row in rows for text in row.values() for word in text.split()}
    write_tiny_blip2(folder / "tiny-blip2", seed, words=sorted(words), language=language)
    part = folder / "questions.csv.part"
    with part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    part.replace(folder / "questions.csv")


def _questions(video: str, colour: str, shape: str, motion: str) -> list[dict[str, str]]:
    templates = (
        ("colour", f"What colour is the {shape}?", tuple(COLOURS), colour),
        ("shape", f"What is the {colour} thing?", SHAPES, shape),
        ("motion", f"Where does the {shape} go?", MOTIONS, motion),
    )
    rows = []
    for kind, question, options, answer in templates:
        cells = {f"a{number}": (options[number] if number < len(options) else "") for number in range(4)}
        rows.append({"video": video, "question": question, **cells, "answer": answer, "type": kind})
    return rows


def _render(path: Path, colour: str, shape: str, motion: str) -> None:
    n_frames = FRAMES_PER_SECOND * SECONDS
    with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        # x264's assembly is not deterministic, even in one thread (observed with PyAV 18.1).
        stream = file.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"x264-params": "threads=1:asm=0"})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for index in range(n_frames):
            image = _draw(colour, shape, motion, index / (n_frames - 1))
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        file.mux(stream.encode(None))


def _draw(colour: str, shape: str, motion: str, progress: float) -> np.ndarray:
    """Return one frame [SIZE, SIZE, 3] uint8; `progress` runs from 0 to 1."""
    along = 16 + progress * (SIZE - 32)
    centre = {"left": (SIZE - along, 48), "right": (along, 48), "up": (48, SIZE - along), "down": (48, along)}[motion]
    y, x = np.mgrid[:SIZE, :SIZE]
    dx, dy = x - centre[0], y - centre[1]
    inside = {
        "square": np.maximum(abs(dx), abs(dy)) < 11,
        "circle": dx**2 + dy**2 < 12**2,
        "triangle": (dy < 10) & (dy > 2 * abs(dx) - 14),
    }[shape]
    return np.where(inside[..., None], np.array(COLOURS[colour]), 30).astype(np.uint8)
