"""Sampled frames -> what an encoder makes of each, in the pool, once a frame."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from cache.pool import Part, Pool, part_rows
from cache.pool_reader import PoolReader
from pipeline.engine.output import Shard, ShardedOutput
from pipeline.engine.progress import FrameProgress, frame_progress
from pipeline.engine.stage import RunContext
from pipeline.engine.waiting import model_input
from pipeline.inference.load_models import OnDemand
from pipeline.inference.not_finite import FEATURES
from pipeline.inference.streams import behind, read_ahead
from pipeline.inference.visual_windows import VideoFeatures
from pipeline.memory import Halving
from pipeline.models.transfer import to_device, to_host
from pipeline.reasons import Reason
from pipeline.video.frames import SampledVideo

if TYPE_CHECKING:
    from torch import Tensor

PIECE_FRAMES = 1024  # stored together, of a video that has more
PUBLISHERS = 2  # threads: one digests slower than an H100 encodes

# Takes uint8 frames [B, H, W, 3] on the run's device, and returns what is stored of each, [B, ...] there.
Encoder = Callable[["Tensor"], "Tensor"]


class StoredFrames(Protocol):
    """Sampled frames as an artifact."""

    def videos(self) -> Sequence[SampledVideo]:
        """Return the rows of all videos, failed ones too."""

    def frame_indices(self) -> dict[str, np.ndarray]:
        """Return by video id the indices of its frames in the video, [T] int64, ascending."""

    def pixel_key(self, video: SampledVideo) -> str:
        """Return what identifies the pixels of any frame of a video."""

    def open(self) -> PoolReader:
        """Return a reader of the frames, uint8 [T, H, W, 3] a video."""


@dataclass(frozen=True)
class Encoding:
    """What is made of a frame.

    Attributes:
        what: the model, for people.
        content: all that changes the result: a config, the identity of the weights.
        shape: of one frame's values.
        stored_as: their type on disk.
        load: loads the encoder, on the run's device.
        fix: what helps where values cannot be stored, for people.
    """

    what: str
    content: Mapping[str, Any]
    shape: tuple[int, ...]
    stored_as: str
    load: Callable[[], Encoder]
    fix: str


def larger_types(**types: str) -> str:
    """Return what helps where values cannot be stored: float32 for the options that are another type, if any are."""
    smaller = [name for name, type in types.items() if type != "float32"]
    return f"set {' or '.join(smaller)} to float32" if smaller else "the weights are damaged, or another model's"


def encode_frames(frames: StoredFrames, encoding: Encoding, run: RunContext, out: ShardedOutput) -> None:
    """Encode what the pool lacks of all frames, and write the tables `videos` and `parts` of each shard's videos."""
    videos, frame_indices = frames.videos(), frames.frame_indices()
    encode = _Encode(encoding, run, out.stage.name)
    pool = out.pool(**encoding.content)
    unfit = f"{encoding.what} gave values that {encoding.stored_as} cannot hold"

    def encode_shard(shard: Shard) -> None:
        wanted = [videos[item] for item in shard.items]
        stored = _Stored(frames, frame_indices, wanted, shard.settings["batch_frames"])
        n_frames = sum(map(len, stored.places.values()))
        with shard.phase("encode"), frame_progress(shard, n_frames) as progress:
            work = partial(encode.add, pool, stored, progress)
            pool.make(stored.places, lambda key: not stored.missing_of(pool, key), work)
        rows = [_row(video, stored.bad_frames(video.video_id), unfit) for video in wanted]
        shard.dropped.update(FEATURES for row in rows if row.reason.code == FEATURES)
        shard.write_rows("videos", rows)
        parts = {key: stored.parts(pool, key) for key in stored.places}
        of_videos = [
            part_rows(row.video_id, frame_indices[row.video_id].tolist(), parts[stored.keys[row.video_id]])
            for row in rows
            if row.status == "ok"
        ]
        shard.write_rows("parts", [part for of_video in of_videos for part in of_video])

    out.each_shard(encode_shard)
    n_videos = sum(video.status == "ok" for video in videos)
    out.refuse_all(FEATURES, n_videos, f"{unfit}, for every video; {encoding.fix}")


def _row(video: SampledVideo, bad: list[int], unfit: str) -> VideoFeatures:
    if not bad:
        return VideoFeatures(video.video_id, video.status, video.reason, video.n_frames)
    others = f" and {len(bad) - 1} others of {video.n_frames}" if bad[1:] else ""
    return VideoFeatures(video.video_id, "failed", Reason(f"{FEATURES}: frame {bad[0]}{others}: {unfit}"), 0)


class _Stored:
    """The frames of a shard's videos by key: what identifies their pixels, which several videos may share."""

    def __init__(
        self, frames: StoredFrames, indices: dict[str, np.ndarray], videos: list[SampledVideo], batch_frames: int
    ) -> None:
        self._frames, self._indices, self._batch_frames = frames, indices, batch_frames
        self.keys = {video.video_id: frames.pixel_key(video) for video in videos if video.status == "ok"}
        self.bad: dict[str, set[int]] = {}  # by key, the frames whose features are not finite
        self.n_held = 0  # frames of keys that were begun of which the pool has the features already
        self.places: dict[str, dict[int, tuple[str, int]]] = {}  # per key, where each of its frames is stored
        for video_id, key in self.keys.items():
            stored = {int(index): (video_id, row) for row, index in enumerate(indices[video_id])}
            self.places[key] = stored | self.places.get(key, {})
        reader = frames.open()
        checksums = {video_id: reader.checksums(video_id).tolist() for video_id in self.keys}
        self._pixels = {
            key: {index: f"{checksums[video_id][row]:016x}" for index, (video_id, row) in places.items()}
            for key, places in self.places.items()
        }

    def facts(self, key: str, indices: Sequence[int]) -> dict[str, list[str]]:
        """Return what is noted of features that are made of some frames of a key: the checksums of the pixels."""
        return {"pixels": [self._pixels[key][index] for index in indices]}

    def parts(self, pool: Pool, key: str) -> list[Part]:
        """Return the parts of a key whose features were made from the pixels that its frames have now."""
        return [part for part in pool.parts(key) if self._is_of_these_pixels(part)]

    def _is_of_these_pixels(self, part: Part) -> bool:
        pixels, noted = self._pixels[part.key], part.facts.get("pixels", [])
        pairs = zip(part.frame_indices, noted, strict=False)
        return len(noted) == len(part.frame_indices) and all(pixels.get(index, of) == of for index, of in pairs)

    def missing_of(self, pool: Pool, key: str) -> list[int]:
        """Return the indices, ascending, of the frames of a key whose features the pool lacks."""
        held = {index for part in self.parts(pool, key) for index in part.frame_indices}
        return sorted(self.places[key].keys() - held)

    def missing(self, pool: Pool, keys: Iterator[str]) -> Iterator[tuple[_Piece, np.ndarray]]:
        """Yield, key by key, the pieces of what the pool lacks, each with one of its batches of pixels.

        No batch holds frames of two videos: a video's features must not depend, in their last bits, on what was beside it.
        """
        reader = self._frames.open()
        for key in keys:
            missing = self.missing_of(pool, key)
            self.n_held += len(self.places[key]) - len(missing)
            for start in range(0, len(missing), PIECE_FRAMES):
                end = start + PIECE_FRAMES
                piece = _Piece(key, missing[start:end], end >= len(missing))
                for batch in self._batches(reader, key, piece.frames):
                    yield piece, batch

    def batches(self, key: str, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the pixels of some frames of a key."""
        return self._batches(self._frames.open(), key, indices)

    def bad_frames(self, video_id: str) -> list[int]:
        """Return which of a video's frames are among those of its key that are bad."""
        of_key = self.bad.get(self.keys.get(video_id, ""), set())
        return sorted(of_key.intersection(self._indices[video_id].tolist())) if of_key else []

    def _batches(self, reader: PoolReader, key: str, indices: Sequence[int]) -> Iterator[np.ndarray]:
        for start in range(0, len(indices), self._batch_frames):
            places = [self.places[key][index] for index in indices[start : start + self._batch_frames]]
            pieces = [
                reader.read(video_id, [row for _, row in group]) for video_id, group in groupby(places, lambda p: p[0])
            ]
            yield np.concatenate(pieces)


@dataclass(frozen=True, eq=False)
class _Piece:
    """Frames of a key that are stored together, by their indices in the video; `is_last` of what the pool lacks of the key."""

    key: str
    frames: list[int]
    is_last: bool


class _NotFiniteError(Exception):
    """These frames gave values that cannot be stored."""

    def __init__(self, frames: set[int]) -> None:
        super().__init__(frames)
        self.frames = frames


class _Encoded(NamedTuple):
    """Values [frames, ...] on their way from the device, and which of the frames are finite, [frames] bool."""

    features: Tensor
    finite: Tensor
    copied: Callable[[], None]  # waits until both are here


class _Encode:
    """Pixels -> features."""

    def __init__(self, encoding: Encoding, run: RunContext, name: str) -> None:
        self._stored_as, self._shape, self._run = encoding.stored_as, encoding.shape, run
        self._encoder = OnDemand(encoding.load)
        self._halving = Halving(name)

    def add(self, pool: Pool, stored: _Stored, progress: FrameProgress, keys: Iterator[str]) -> Iterator[str]:
        """Add to the pool what it lacks of these keys, and yield each; `stored.bad` has what is not finite, which is left out.

        One thread reads frames, one computes, this one writes, and others sync and digest what is written. A long video is
        stored piece by piece, so that one that is interrupted goes on from its last piece.
        """
        encoded = read_ahead(self._encoded(model_input(read_ahead(stored.missing(pool, keys)))), depth=4)
        with ThreadPoolExecutor(PUBLISHERS) as publishers:
            written = (
                (piece, publishers.submit(self._write(pool, stored, piece, (features for _, features in group))))
                for piece, group in groupby(encoded, key=lambda batch: batch[0])
            )
            for piece, published in behind(written, PUBLISHERS):
                published.result()
                progress.add(len(piece.frames), stored.n_held)
                if piece.is_last:
                    yield piece.key

    def _write(self, pool: Pool, stored: _Stored, piece: _Piece, encoded: Iterator[_Encoded]) -> Callable[[], None]:
        """Write the finite ones of a piece's features, and return what publishes them."""
        key = piece.key

        def write(frames: list[int], of_frames: Iterator[_Encoded]) -> Callable[[], None]:
            features = self._finite(of_frames, frames)
            return pool.write(key, frames, self._shape, self._stored_as, features, stored.facts(key, frames))

        try:
            return write(piece.frames, encoded)
        except _NotFiniteError as error:
            stored.bad.setdefault(key, set()).update(error.frames)
        good = [index for index in piece.frames if index not in stored.bad[key]]
        if not good:
            return lambda: None
        again = self._encoded((piece, pixels) for pixels in stored.batches(key, good))
        return write(good, (features for _, features in again))

    def _finite(self, encoded: Iterator[_Encoded], frames: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the features of these frames, piece by piece; raises `_NotFiniteError` at the end."""
        bad: set[int] = set()
        done = 0
        for features, finite, _ in encoded:
            bad |= {frames[done + place] for place in np.flatnonzero(~finite.numpy()).tolist()}
            done += len(features)
            yield features.numpy()
        if bad:
            raise _NotFiniteError(bad)

    def _encoded(self, batches: Iterable[tuple[_Piece, np.ndarray]]) -> Iterator[tuple[_Piece, _Encoded]]:
        """Yield the features of batches as they arrive; the next batch is given to the device before one is waited for."""

        def computed() -> Iterator[tuple[_Piece, _Encoded]]:
            for piece, batch in batches:
                encoder = self._encoder.model  # not before there is a batch
                for encoded in self._halving(partial(self._compute, encoder), batch):
                    yield piece, encoded

        for item in behind(computed()):
            item[1].copied()
            yield item

    def _compute(self, encoder: Encoder, batch: np.ndarray) -> _Encoded:
        import torch

        with torch.no_grad():
            features = encoder(to_device(batch, self._run.torch_device()))
            features = features.to(getattr(torch, self._stored_as))
            (here, finite), copied = to_host(features, features.isfinite().flatten(1).all(dim=1))
            return _Encoded(here, finite, copied)
