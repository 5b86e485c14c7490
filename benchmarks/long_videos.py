"""Peak memory of sampling and encoding one long video: `python -m benchmarks.long_videos 1 3 10` (hours).

A real file for each length, small frames at 2 fps, sampled at 1 fps, with random weights of the tiny model. Each length runs in
a fresh store and in its own process, so that peaks are independent. Writes `long_videos.json` to OUT, by default the current
folder.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.report import show
from benchmarks.world import TINY, WEIGHTS, command, write_checkpoint, write_questions
from cache.store import Store
from tests.videos import make_video

FRAMES_PER_SECOND = 2  # of 64 x 48 pixels
SETTINGS = [
    "sample_frames.sampling=fixed_rate",
    f"sample_frames.size={TINY.image_size}",
    "extract_features.level=queries",
    f"import_backbone.weights={WEIGHTS}",
]


def measured(folder: Path, hours: float) -> list[str]:
    """Sample and encode a video of this length, and return its row of the table."""
    (folder / "videos").mkdir(parents=True)
    make_video(folder / "videos" / "long.mp4", int(hours * 3600 * FRAMES_PER_SECOND), FRAMES_PER_SECOND, gop=60)
    write_questions(folder, ["long.mp4"])
    subprocess.run(command(["run"], folder, folder.parent / WEIGHTS, SETTINGS), check=True)
    store, row = Store(folder / "store"), [f"{hours:g}"]
    for stage in ("sample_frames", "extract_features", "score_frames"):
        [record] = store.of_stage(stage)
        if stage == "sample_frames":
            row.append(f"{record.rows['frames']:,}")
        row.append(f"{record.peak_memory_bytes / 1e6:.0f} MB, {sum(record.phase_seconds.values()):.0f} s")
    return row


def main() -> None:
    """Print a table."""
    lines = [["hours", "frames", "sample_frames", "extract_features", "score_frames"]]
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder) / WEIGHTS, TINY, "cpu", torch.float32)
        lines += [measured(Path(folder) / hours, float(hours)) for hours in sys.argv[1:] or ("1", "3", "10")]
    show("long_videos", lines)


if __name__ == "__main__":
    main()
