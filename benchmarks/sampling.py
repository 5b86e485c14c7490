"""Where the time of sampling goes: `OMP_NUM_THREADS=1 python -m benchmarks.sampling [N videos]`.

The videos of benchmarks/floors.py, 32 frames of each. Parts take turns, and times are medians over the rounds: of the processor,
for this process and those that it has started, as these differ least where other programs run.
"""

from __future__ import annotations

import os
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.floors import N_FRAMES, ROUNDS, Videos
from benchmarks.timing import medians_by_turns
from cache.pool import Pool
from cache.store import Store
from pipeline.text_table import aligned
from pipeline.video.decode_worker import read_with_decord
from pipeline.video.decoding import DecodeRequest, DecoderPool
from pipeline.video.frames import UniformSampling
from pipeline.video.probing import probe

FRAME_SIZE = 224


class SamplingParts:
    """The parts of sampling some videos, each alone."""

    def __init__(self, folder: Path, videos: Videos) -> None:
        self.folder, self.videos, self.round = folder, videos, 0
        self.frames = np.random.default_rng(0).integers(0, 256, (N_FRAMES, FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
        self.probes = [probe(path) for path in videos.paths]

    def probe(self) -> None:
        """Look at every packet."""
        for path in self.videos.paths:
            probe(path)

    def decode(self) -> None:
        """Decode every video to its end, in this process."""
        for path, video in zip(self.videos.paths, self.probes, strict=True):
            indices = UniformSampling(N_FRAMES).indices(video.n_frames, video.fps, 0, video.n_frames)
            for _ in read_with_decord(path, video, indices, FRAME_SIZE, lambda: None):
                pass

    def hand_over(self, n_videos: int) -> None:
        """Look at, decode and take over the frames of some videos from a process of its own."""
        with DecoderPool(1, 60.0, FRAME_SIZE) as pool:
            for result in pool.decode(
                DecodeRequest(path, UniformSampling(N_FRAMES)) for path in self.videos.paths[:n_videos]
            ):
                for _ in result.frames:
                    pass

    def write(self, publishes: bool) -> None:
        """Write as many frames into a new pool; and sync and digest them."""
        self.round += 1
        pool = Pool(Store(self.folder / f"pool{self.round}"), "frames")
        for number in range(len(self.videos.paths)):
            publish = pool.write(f"{number:032x}", range(N_FRAMES), self.frames.shape[1:], "uint8", [self.frames], {})
            if publishes:
                publish()


def processor_seconds() -> float:
    """Return the seconds of the processor of this process and of those that it has started and that have ended."""
    return sum(os.times()[:4])


def main(n_videos: int) -> None:
    """Print a table."""
    with tempfile.TemporaryDirectory() as place:
        videos = Videos(Path(place), n_videos)
        parts = SamplingParts(Path(place), videos)
        taken = medians_by_turns(
            {
                "decord alone, the frames that are wanted": videos.sample_raw,
                "looking at every packet": parts.probe,
                "decord to the end, in this process": parts.decode,
                "both in a process of its own, frames handed over": partial(parts.hand_over, n_videos),
                "of that, one video: start and end of the process": partial(parts.hand_over, 1),
                "writing the frames": partial(parts.write, False),
                "writing, syncing and digesting them": partial(parts.write, True),
                "the whole stage, one decoding process": partial(videos.sample, 1),
            },
            ROUNDS,
            processor_seconds,
        )
    floor = next(iter(taken.values()))
    lines = [["", "ms a video", "of decord alone"]]
    lines += [[name, f"{1000 * taken[name] / n_videos:.1f}", f"{floor / taken[name]:.2f}"] for name in taken]
    print(aligned(lines))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
