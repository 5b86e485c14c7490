"""Seconds and peak memory of each stage as a data set grows: `python -m benchmarks.growth [questions ...]`.

At the tiny model's size with random weights on a CPU, 8 questions a video, 8 drawn frames; each size by the command line, in a
fresh store. What the last two sizes differ by says what a million questions take, if it goes on like that.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.world import IN_FLOAT32, TINY, WEIGHTS, command, draw_videos, write_checkpoint, write_data
from cache.record import Record
from pipeline.text_table import aligned

A_VIDEO = 8  # questions
MEASURED = ("list_questions", "extract_features", "score_frames", "select_keyframes", "answer_questions", "evaluate")
SETTINGS = [
    "list_questions.split=train",
    f"import_backbone.weights={WEIGHTS}",
    f"sample_frames.frames={TINY.n_frames}",
    f"sample_frames.size={TINY.image_size}",
    *IN_FLOAT32,
]


def records(folder: Path, n_questions: int) -> dict[str, Record]:
    """Run the recipe over so many questions, and return each stage's record."""
    write_data(folder, replace(TINY, n_videos=n_questions // A_VIDEO, questions_a_video=A_VIDEO))
    weights = folder.parent / WEIGHTS
    store = draw_videos(folder, weights, SETTINGS)
    subprocess.run(command(["run", "--no-report"], folder, weights, SETTINGS), check=True, stdout=subprocess.DEVNULL)
    return {record.stage: record for record in map(store.record, store)}


def main(sizes: list[int]) -> None:
    """Print a table."""
    lines = [["stage", *(f"{size:,} questions" for size in sizes), "a million, by the last two"]]
    with tempfile.TemporaryDirectory() as place:
        write_checkpoint(Path(place) / WEIGHTS, TINY, "cpu", torch.float32)
        all_records = [records(Path(place) / str(size), size) for size in sizes]
    for stage in MEASURED:
        seconds = [of_size[stage].seconds for of_size in all_records]
        peaks = [of_size[stage].peak_memory_bytes / 1e9 for of_size in all_records]
        cells = [f"{taken:.1f} s, {peak:.2f} GB" for taken, peak in zip(seconds, peaks, strict=True)]
        times = (1_000_000 - sizes[-1]) / (sizes[-1] - sizes[-2])
        last = [values[-1] + times * (values[-1] - values[-2]) for values in (seconds, peaks)]
        lines.append([stage, *cells, f"{last[0]:,.0f} s, {last[1]:.1f} GB"])
    print(aligned(lines))


if __name__ == "__main__":
    main([int(words) for words in sys.argv[1:]] or [1000, 4000, 16_000])
