"""Writing the Shapes world to files: videos, annotations of every split, and narrations of the queries' videos as timed text.

Shapes-long is a separate split, of videos in which the same few events are minutes apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cache.files import write_atomically
from pipeline.shapes.drawing import draw
from pipeline.shapes.world import (
    LONG,
    SHORT,
    SIZE,
    Event,
    WorldQuestion,
    events_of_video,
    objects_of,
    queries_about,
    questions_about,
    statement,
    video_look,
)

VIDEOS = {"train": 140, "val": 40, "test": 80, "moments": 40}
"""Number of videos of each split, which are disjoint. `moments` has queries for moments, the others have questions."""
QUERIES = "moments"
LONG_VIDEOS = 24
REPEATS = 6  # of each frame of a long video: at 6 frames/s, sampling 1 frame/s skips most of them


def write_shapes(folder: Path, seed: int = 0, videos: Mapping[str, int] = VIDEOS) -> None:
    """Write `videos/`, `timed_text/` and a `shapes_SPLIT.jsonl` for each split to `folder`, deterministically.

    The last two videos of the split `train` are damaged, one truncated and one empty, to demonstrate how failures are reported.
    """
    for name in ("videos", "timed_text"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for split_number, (split, n_videos) in enumerate(videos.items()):
        lines = []
        for number in range(n_videos):
            # A generator per video: adding videos to a split changes no other video.
            rng = np.random.default_rng([seed, split_number, number])
            name = f"{split}_{number:03d}"
            events = events_of_video(rng)
            frames = draw(objects_of(events, rng), video_look(SHORT.frames, rng), SIZE, rng)
            _render(folder / "videos" / f"{name}.mp4", frames)
            questions = queries_about(events) if split == QUERIES else questions_about(events, rng)
            lines += [json.dumps(_row(name, order, question)) + "\n" for order, question in enumerate(questions)]
            if split == QUERIES:
                (folder / "timed_text" / f"{name}.vtt").write_text(_narration(events, rng), encoding="utf-8")
        if split == "train" and n_videos > 2:
            _damage(folder / "videos" / f"{split}_{n_videos - 2:03d}.mp4", folder / "videos" / f"{name}.mp4")
        write_atomically(folder / f"shapes_{split}.jsonl", "".join(lines).encode())


def write_long_shapes(folder: Path, seed: int = 0, n_videos: int = LONG_VIDEOS) -> None:
    """Write `videos/` of 10 minutes each, with as many events as a short one, and `shapes_long.jsonl` to `folder`."""
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(n_videos):
        rng = np.random.default_rng([seed, len(VIDEOS), number])  # differs from all other splits
        name = f"long_{number:03d}"
        events = events_of_video(rng, LONG)
        frames = draw(objects_of(events, rng, LONG), video_look(LONG.frames, rng), SIZE, rng)
        _render(folder / "videos" / f"{name}.mp4", np.repeat(frames, REPEATS, axis=0), LONG.frames_per_second * REPEATS)
        questions = questions_about(events, rng)
        lines += [json.dumps(_row(name, order, question)) + "\n" for order, question in enumerate(questions)]
    write_atomically(folder / "shapes_long.jsonl", "".join(lines).encode())


def _row(video: str, number: int, question: WorldQuestion) -> dict[str, Any]:
    row: dict[str, Any] = {"question_id": f"{video}_{number}", "video": video, "question": question.question}
    if question.options:
        row |= {"options": question.options, "answer": question.answer, "type": question.type}
    return row | {"moments": question.moments}


def _narration(events: list[Event], rng: np.random.Generator) -> str:
    """Return a narration of the events as WebVTT, with times jittered by a few tenths of a second and rounded to 0.5 s."""
    cues = []
    for event in events:
        start, end = (round(2 * (time + rng.normal(0, 0.3))) / 2 for time in event.window)
        start = min(max(start, 0.0), SHORT.seconds - 0.5)
        cues.append(f"{_clock(start)} --> {_clock(max(end, start + 0.5))}\n{statement(event.thing, event.motion)}\n")
    return "\n".join(["WEBVTT\n", *cues])


def _clock(seconds: float) -> str:
    return f"00:{int(seconds) // 60:02d}:{seconds % 60:06.3f}"


def _damage(cut: Path, empty: Path) -> None:
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    empty.write_bytes(b"")


def _render(path: Path, frames: np.ndarray, frames_per_second: int = SHORT.frames_per_second) -> None:
    import av  # here, as machines that only read stored features need no decoder

    with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        # x264's assembly is not deterministic, even in one thread (seen with x264 of PyAV 18.1).
        options = {"x264-params": "threads=1:asm=0", "preset": "veryfast"}
        stream = file.add_stream("libx264", rate=frames_per_second, options=options)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        file.mux(stream.encode(None))
