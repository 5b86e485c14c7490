"""Seconds and peak memory of each stage as a data set grows: `python -m benchmarks.growth [questions ...]`.

At the tiny model's size with random weights on a CPU, 8 questions a video, 8 drawn frames; each size by the command line, in a
fresh store. What the last two sizes differ by says what a million questions take, if it goes on like that.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.world import TINY, WEIGHTS, draw_frames, write_checkpoint, write_data
from cache.store import Store
from pipeline.engine.build import build
from pipeline.engine.recipe import load
from pipeline.engine.sources import Sources
from pipeline.engine.stage import RunContext
from pipeline.text_table import aligned
from stages.all import STAGES
from stages.list_questions import list_questions
from stages.sample_frames import sample_frames

A_VIDEO = 8  # questions
MEASURED = ("list_questions", "extract_features", "score_frames", "select_keyframes", "answer_questions", "evaluate")
SETTINGS = [
    "list_questions.split=train",
    f"import_backbone.weights={WEIGHTS}",
    f"sample_frames.frames={TINY.n_frames}",
    f"sample_frames.size={TINY.image_size}",
    *(f"{stage}.precision=float32" for stage in ("extract_features", "score_frames", "answer_questions")),
]


def records(folder: Path, n_questions: int) -> dict[str, dict[str, Any]]:
    """Run the recipe over so many questions, and return each stage's record."""
    write_data(folder, replace(TINY, n_videos=n_questions // A_VIDEO, questions_a_video=A_VIDEO))
    store = Store(folder / "store")
    places = {"annotations": [str(folder / "questions.csv")], "videos": [str(folder / "videos")]}
    sources, recipe = Sources(store.digests, places), load("plain", STAGES, SETTINGS)
    run = RunContext(store, device="cpu", sources=sources)
    questions = build(list_questions, recipe.config(list_questions), run, [sources.annotations("plain", "train")])
    drawn = replace(sample_frames, function=draw_frames)
    build(drawn, recipe.config(sample_frames), run, [sources.videos("plain", questions)])
    command = [
        sys.executable,
        "-m",
        "sevila",
        "run",
        "plain",
        "--store",
        str(store.root),
        "--device",
        "cpu",
        "--no-report",
    ]
    command += ["--annotations", places["annotations"][0], "--videos", places["videos"][0], "--quiet"]
    command += ["--weights", f"{WEIGHTS}={folder.parent / WEIGHTS}"]
    command += [word for setting in SETTINGS for word in ("--set", setting)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    paths = store.root.glob("artifacts/*/record.json")
    return {record["stage"]: record for record in map(json.loads, (path.read_text() for path in paths))}


def main(sizes: list[int]) -> None:
    """Print a table."""
    lines = [["stage", *(f"{size:,} questions" for size in sizes), "a million, by the last two"]]
    with tempfile.TemporaryDirectory() as place:
        write_checkpoint(Path(place) / WEIGHTS, TINY, "cpu", torch.float32)
        all_records = [records(Path(place) / str(size), size) for size in sizes]
    for stage in MEASURED:
        seconds = [_seconds(of_size[stage]) for of_size in all_records]
        peaks = [of_size[stage]["peak_memory_bytes"] / 1e9 for of_size in all_records]
        cells = [f"{taken:.1f} s, {peak:.2f} GB" for taken, peak in zip(seconds, peaks, strict=True)]
        times = (1_000_000 - sizes[-1]) / (sizes[-1] - sizes[-2])
        last = [values[-1] + times * (values[-1] - values[-2]) for values in (seconds, peaks)]
        lines.append([stage, *cells, f"{last[0]:,.0f} s, {last[1]:.1f} GB"])
    print(aligned(lines))


def _seconds(record: dict[str, Any]) -> float:
    started, finished = (datetime.fromisoformat(record[name]) for name in ("started", "finished"))
    return (finished - started).total_seconds()


if __name__ == "__main__":
    main([int(words) for words in sys.argv[1:]] or [1000, 4000, 16_000])
