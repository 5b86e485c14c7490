"""The parts of sampling by time: `OMP_NUM_THREADS=1 python -m benchmarks.sampling [N videos]`.

The videos of benchmarks/floors.py, 32 frames of each. Parts take turns; results are medians over the rounds, in processor
seconds of this process and its children, which other programs influence least. Writes `sampling.json` to OUT, by default the
current folder.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.floors import N_FRAMES, ROUNDS, Videos
from benchmarks.report import show
from benchmarks.timing import medians_by_turns, processor_seconds
from cache.pool import Pool
from cache.store import Store
from pipeline.video.decode_worker import read_with_decord
from pipeline.video.decoding import DecodeRequest, DecoderProcess
from pipeline.video.frames import UniformSampling
from pipeline.video.probing import probe

FRAME_SIZE = 224


class SamplingParts:
    """The parts of sampling some videos, each separately."""

    def __init__(self, folder: Path, videos: Videos) -> None:
        self.folder, self.videos, self.round = folder, videos, 0
        self.frames = np.random.default_rng(0).integers(0, 256, (N_FRAMES, FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
        self.probes = [probe(path) for path in videos.paths]

    def probe(self) -> None:
        """Read every packet of every video."""
        for path in self.videos.paths:
            probe(path)

    def decode(self) -> None:
        """Decode every video to its end, in this process."""
        for path, video in zip(self.videos.paths, self.probes, strict=True):
            indices = UniformSampling(N_FRAMES).indices(video.n_frames, video.fps, 0, video.n_frames)
            for _ in read_with_decord(path, video, indices, FRAME_SIZE, lambda: None):
                pass

    def hand_over(self, n_videos: int) -> None:
        """Probe and decode some videos in a decoder process, and receive their frames."""
        with DecoderProcess(60.0, FRAME_SIZE) as decoder:
            for result in decoder.decode(
                DecodeRequest(path, UniformSampling(N_FRAMES)) for path in self.videos.paths[:n_videos]
            ):
                for _ in result.frames:
                    pass

    def write(self, publishes: bool) -> None:
        """Write the same number of frames to a new pool; `publishes`: also sync and digest them."""
        self.round += 1
        pool = Pool(Store(self.folder / f"pool{self.round}"), "frames")
        for number in range(len(self.videos.paths)):
            publish = pool.write(f"{number:032x}", range(N_FRAMES), self.frames.shape[1:], "uint8", [self.frames], {})
            if publishes:
                publish()


def main(n_videos: int) -> None:
    """Print a table."""
    with tempfile.TemporaryDirectory() as folder:
        videos = Videos(Path(folder), n_videos)
        parts = SamplingParts(Path(folder), videos)
        seconds = medians_by_turns(
            {
                "decord alone, sampled frames only": videos.sample_raw,
                "reading every packet": parts.probe,
                "decord to the end, in this process": parts.decode,
                "both in a decoder process, with transfer": partial(parts.hand_over, n_videos),
                "the same for one video: start and end of the process": partial(parts.hand_over, 1),
                "writing the frames": partial(parts.write, False),
                "writing, syncing and digesting them": partial(parts.write, True),
                "the whole stage, one decoder process": partial(videos.sample, 1),
            },
            ROUNDS,
            processor_seconds,
        )
    floor = next(iter(seconds.values()))
    lines = [["part", "ms per video", "of decord alone"]]
    lines += [[name, f"{1000 * value / n_videos:.1f}", f"{floor / value:.2f}"] for name, value in seconds.items()]
    show("sampling", lines)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
