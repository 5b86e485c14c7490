"""Reading, writing and sampling relative to their lower bounds: `python -m benchmarks.floors [N videos]`.

Reading and writing: ViT-g features of 32 frames per video, relative to plain h5py on the same bytes, and to copying them in
memory. Sampling: the whole stage on ten times as many videos with one decoder process, relative to plain decord that reads the
same frames on one thread. Variants take turns; results are medians over the rounds. Frames are random; files are in TMPDIR.
Writes `floors.json` to OUT, by default the current folder.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import decord
import h5py
import numpy as np

from benchmarks.report import show
from benchmarks.timing import medians_by_turns
from benchmarks.world import write_questions
from cache.fingerprint import fingerprint
from cache.pool import Pool, part_rows
from cache.pool_listing import PARTS
from cache.pool_reader import PoolReader
from cache.store import Store
from pipeline.engine.build import build
from pipeline.engine.recipe import load
from pipeline.engine.sources import Sources
from pipeline.engine.stage import RunContext
from pipeline.inference.frame_encoding import PUBLISHERS
from pipeline.inference.streams import behind
from pipeline.video.frames import uniform_indices
from stages.all import STAGES
from stages.list_questions import list_questions
from stages.sample_frames import sample_frames
from tests.videos import make_video

ROUNDS, N_FRAMES, FEATURE = 7, 32, (257, 1408)


class StoredFeatures:
    """Random ViT-g features of some videos, written and read by the pool and by plain h5py."""

    def __init__(self, folder: Path, n_videos: int) -> None:
        self.folder, self.keys = folder, [f"video{number}" for number in range(n_videos)]
        self.frames = np.random.default_rng(0).standard_normal((N_FRAMES, *FEATURE), np.float32).astype(np.float16)
        self.round = 0
        self.write()
        self._reader = self._reader_of_parts()

    def write(self) -> None:
        """Write them into the pool of a new store, as `extract_features` does: other threads sync and digest them."""
        self.round += 1
        pool = Pool(Store(self.folder / f"store{self.round}"), "features")
        with ThreadPoolExecutor(PUBLISHERS) as publishers:
            written = (
                publishers.submit(pool.write(key, range(N_FRAMES), FEATURE, "float16", self._chunks(), {}))
                for key in self.keys
            )
            for published in behind(written, PUBLISHERS):
                published.result()

    def write_raw(self) -> None:
        """Write the same arrays with plain h5py, each synced once."""
        for key in self.keys:
            with h5py.File(self.folder / f"{key}.h5", "w") as file:
                data = file.create_dataset("data", self.frames.shape, "float16", chunks=(1, *FEATURE))
                for first, chunk in enumerate(self._chunks()):
                    data[first * 8 : first * 8 + 8] = chunk
            with (self.folder / f"{key}.h5").open("rb") as written:
                os.fsync(written.fileno())

    def read(self) -> None:
        """Read all frames of every video, as stages do, each compared with its checksum; files are opened anew."""
        reader = self._reader.another()
        for key in self.keys:
            reader.read(key, slice(None))

    def read_raw(self) -> None:
        """Read the same arrays with plain h5py, one call per video."""
        for key in self.keys:
            with h5py.File(self.folder / f"{key}.h5") as file:
                file["data"][:]

    def copy(self) -> None:
        """Copy the same number of bytes in memory."""
        for _ in self.keys:
            self.frames.copy()

    def _reader_of_parts(self) -> PoolReader:
        """Return a reader of the first store; a stage has its table of parts from a Parquet file, once."""
        store = Store(self.folder / "store1")
        pool = Pool(store, "features")
        rows = [row for key in self.keys for row in part_rows(key, list(range(N_FRAMES)), pool.parts(key)[:1])]
        columns: dict[str, Any] = {name: [np.asarray(row[name]) for row in rows] for name in PARTS.columns}
        columns |= {name: [str(value) for value in columns[name]] for name in ("video_id", "key", "part")}
        return PoolReader(store, "features", columns)

    def _chunks(self) -> Iterator[np.ndarray]:
        yield from np.split(self.frames, N_FRAMES // 8)


class Videos:
    """Real video files of ten seconds, and their sampling."""

    def __init__(self, folder: Path, n_videos: int) -> None:
        self.folder, self.round = folder, 0
        (folder / "videos").mkdir()
        first = make_video(folder / "videos" / "0.mp4", n_frames=250, fps=25, size=(320, 240), gop=50)
        self.paths = [first, *(folder / "videos" / f"{number}.mp4" for number in range(1, n_videos))]
        for number, path in enumerate(self.paths[1:]):  # same frames, but distinct digests
            path.write_bytes(first.read_bytes() + fingerprint(number).encode())
        write_questions(folder, [path.name for path in self.paths])

    def sample(self, workers: int) -> None:
        """Sample them into a new store."""
        self.round += 1
        store = Store(self.folder / f"store{self.round}")
        places = {"annotations": [f"{self.folder / 'questions.csv'}"], "videos": [f"{self.folder / 'videos'}"]}
        sources = Sources(store.digests, places)
        run = RunContext(store, device="cpu", sources=sources, decode_workers=workers)
        recipe = load("plain", STAGES, [])
        questions = build(list_questions, recipe.config(list_questions), run, [sources.annotations("plain", "val")])
        build(sample_frames, recipe.config(sample_frames), run, [sources.videos("plain", questions)])

    def sample_raw(self) -> None:
        """Read the same frames with plain decord, in this process."""
        for path in self.paths:
            reader = decord.VideoReader(str(path), width=224, height=224, num_threads=1)
            reader.get_batch(uniform_indices(len(reader), N_FRAMES, 0, len(reader))).asnumpy()


def main(n_videos: int) -> None:
    """Print a table."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "features").mkdir()
        features = StoredFeatures(Path(folder) / "features", n_videos)
        videos = Videos(Path(folder), 10 * n_videos)
        seconds = medians_by_turns(
            {
                "writing": features.write,
                "h5py, written": features.write_raw,
                "reading": features.read,
                "h5py, read": features.read_raw,
                "copying": features.copy,
                "sampling, one process": partial(videos.sample, 1),
                "decord": videos.sample_raw,
            },
            ROUNDS,
        )
    gigabytes = features.frames.nbytes * n_videos / 1e9
    lines = [["work", "rate", "of the lower bound"]]
    for name, floor in (("writing", "h5py, written"), ("reading", "h5py, read"), ("h5py, read", "copying")):
        lines.append(
            [name, f"{gigabytes / seconds[name]:.2f} GB/s", f"{seconds[floor] / seconds[name]:.2f} of {floor}"]
        )
    rate, share = (value / seconds["sampling, one process"] for value in (10 * n_videos * N_FRAMES, seconds["decord"]))
    lines.append(["sampling, one process", f"{rate:.0f} frames/s", f"{share:.2f} of decord"])
    show("floors", lines)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
