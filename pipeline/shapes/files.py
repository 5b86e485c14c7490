"""The Shapes world as files: videos, annotations of every split, and the queries' videos with a narration as timed text.

Shapes-long is a split of its own, of videos in which the same few events lie minutes apart.
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
    queries_about,
    questions_about,
    statement,
    things_of,
    video_look,
)

VIDEOS = {"train": 140, "val": 40, "test": 80, "moments": 40}
"""Videos of each split; splits share none. `moments` has queries for moments, the others have questions."""
QUERIES = "moments"
LONG_VIDEOS = 24
REPEATS = 6  # of each frame of a long video: 6 frames a second, so that looking at one a second leaves most of them out


def write_shapes(folder: Path, seed: int = 0, videos: Mapping[str, int] = VIDEOS) -> None:
    """Write `videos/`, `timed_text/` and one `shapes_SPLIT.jsonl` a split into `folder`; equal arguments give equal bytes.

    The last two videos of the split `train` cannot be used, one cut short and one of zero bytes, so that a first run shows how
    that is reported.
    """
    for name in ("videos", "timed_text"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for split_number, (split, n_videos) in enumerate(videos.items()):
        lines = []
        for number in range(n_videos):
            # Every video has its own stream: more videos of one split change no other.
            rng = np.random.default_rng([seed, split_number, number])
            name = f"{split}_{number:03d}"
            events = events_of_video(rng)
            frames = draw(things_of(events, rng), video_look(SHORT.frames, rng), SIZE, rng)
            _render(folder / "videos" / f"{name}.mp4", frames)
            asked = queries_about(events) if split == QUERIES else questions_about(events, rng)
            lines += [json.dumps(_row(name, order, one)) + "\n" for order, one in enumerate(asked)]
            if split == QUERIES:
                (folder / "timed_text" / f"{name}.vtt").write_text(_narration(events, rng), encoding="utf-8")
        if split == "train" and n_videos > 2:
            _damage(folder / "videos" / f"{split}_{n_videos - 2:03d}.mp4", folder / "videos" / f"{name}.mp4")
        write_atomically(folder / f"shapes_{split}.jsonl", "".join(lines).encode())


def write_long_shapes(folder: Path, seed: int = 0, n_videos: int = LONG_VIDEOS) -> None:
    """Write `videos/` of ten minutes each, with the events of a short one, and `shapes_long.jsonl` into `folder`."""
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(n_videos):
        rng = np.random.default_rng([seed, len(VIDEOS), number])  # a stream that no video of another split has
        name = f"long_{number:03d}"
        events = events_of_video(rng, LONG)
        frames = draw(things_of(events, rng, LONG), video_look(LONG.frames, rng), SIZE, rng)
        _render(folder / "videos" / f"{name}.mp4", np.repeat(frames, REPEATS, axis=0), LONG.frames_per_second * REPEATS)
        asked = questions_about(events, rng)
        lines += [json.dumps(_row(name, order, one)) + "\n" for order, one in enumerate(asked)]
    write_atomically(folder / "shapes_long.jsonl", "".join(lines).encode())


def _row(video: str, number: int, asked: WorldQuestion) -> dict[str, Any]:
    row: dict[str, Any] = {"question_id": f"{video}_{number}", "video": video, "question": asked.question}
    if asked.options:
        row |= {"options": asked.options, "answer": asked.answer, "type": asked.type}
    return row | {"moments": asked.moments}


def _narration(events: list[Event], rng: np.random.Generator) -> str:
    """Return WebVTT of someone telling what happens, as people do: a little late or early, in whole half seconds."""
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
    import av  # only here: machines that score and answer from stored features need no decoder

    with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        # x264's assembly gives other bytes now and then for the same frames, even in one thread (seen with x264 of PyAV 18.1).
        options = {"x264-params": "threads=1:asm=0", "preset": "veryfast"}
        stream = file.add_stream("libx264", rate=frames_per_second, options=options)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        file.mux(stream.encode(None))
