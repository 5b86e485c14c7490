"""Peak memory of sampling and encoding one long video: `python -m benchmarks.long_videos 1 3 10` (hours).

A real file for each length, small pictures at two a second; all frames at one a second, at the tiny model's size with random
weights. Each length runs in a fresh store and by the command line, so that no peak is another's.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.world import TINY, WEIGHTS, command, write_checkpoint, write_questions
from cache.store import Store
from pipeline.text_table import aligned
from tests.videos import make_video

FRAMES_A_SECOND = 2  # of 64 x 48 pixels
SETTINGS = [
    "sample_frames.sampling=fixed_rate",
    f"sample_frames.size={TINY.image_size}",
    "extract_features.level=queries",
    f"import_backbone.weights={WEIGHTS}",
]


def measured(folder: Path, hours: float) -> list[str]:
    """Sample and encode a video of so many hours, and return its row of the table."""
    (folder / "videos").mkdir(parents=True)
    make_video(folder / "videos" / "long.mp4", int(hours * 3600 * FRAMES_A_SECOND), FRAMES_A_SECOND, gop=60)
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
    with tempfile.TemporaryDirectory() as place:
        write_checkpoint(Path(place) / WEIGHTS, TINY, "cpu", torch.float32)
        lines += [measured(Path(place) / words, float(words)) for words in sys.argv[1:] or ("1", "3", "10")]
    print(aligned(lines))


if __name__ == "__main__":
    main()
