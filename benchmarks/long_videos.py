"""Peak memory of sampling and encoding one long video: `python -m benchmarks.long_videos 1 3 10` (hours).

A real file for each length, small pictures at two a second; all frames at one a second, at the tiny model's size with random
weights. Each length runs in a fresh store and by the command line, so that no peak is another's.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.world import TINY, WEIGHTS, write_checkpoint
from pipeline.text_table import aligned
from tests.videos import make_video

FRAMES_A_SECOND = 2  # of 64 x 48 pixels


def measured(folder: Path, hours: float) -> list[str]:
    """Sample and encode a video of so many hours, and return its row of the table."""
    folder.mkdir()
    (folder / "videos").mkdir()
    make_video(folder / "videos" / "long.mp4", int(hours * 3600 * FRAMES_A_SECOND), FRAMES_A_SECOND, gop=60)
    with (folder / "questions.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [["video", "question", "a0", "a1", "answer"], ["long.mp4", "What is seen?", "a", "b", "a"]]
        )
    settings = {
        "sample_frames.sampling": "fixed_rate",
        "sample_frames.size": TINY.image_size,
        "extract_features.level": "queries",
        "import_backbone.weights": WEIGHTS,
    }
    command = [sys.executable, "-m", "sevila", "run", "plain", "--store", str(folder / "store"), "--quiet"]
    command += ["--annotations", str(folder / "questions.csv"), "--videos", str(folder / "videos"), "--device", "cpu"]
    command += ["--weights", f"{WEIGHTS}={folder.parent / 'weights'}"]
    subprocess.run(
        [*command, *(word for key, value in settings.items() for word in ("--set", f"{key}={value}"))], check=True
    )
    row = [f"{hours:g}"]
    for stage in ("sample_frames", "extract_features", "score_frames"):
        [path] = folder.glob(f"store/artifacts/{stage}-*/record.json")
        record = json.loads(path.read_text())
        if stage == "sample_frames":
            row.append(f"{record['rows']['frames']:,}")
        seconds = sum(record["phase_seconds"].values())
        row.append(f"{record['peak_memory_bytes'] / 1e6:.0f} MB, {seconds:.0f} s")
    return row


def main() -> None:
    """Print a table."""
    lines = [["hours", "frames", "sample_frames", "extract_features", "score_frames"]]
    with tempfile.TemporaryDirectory() as place:
        write_checkpoint(Path(place) / "weights", TINY, "cpu", torch.float32)
        lines += [measured(Path(place) / words, float(words)) for words in sys.argv[1:] or ("1", "3", "10")]
    print(aligned(lines))


if __name__ == "__main__":
    main()
