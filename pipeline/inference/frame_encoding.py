"""Encoding of sampled frames into the pool, once per frame."""

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
from pipeline.engine.input_wait import model_input
from pipeline.engine.output import Shard, ShardedOutput
from pipeline.engine.progress import FrameProgress, frame_progress
from pipeline.engine.stage import RunContext
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

PIECE_FRAMES = 1024  # most frames stored together
PUBLISHERS = 2  # threads; a single one digests more slowly than an H100 encodes

# From uint8 frames [B, H, W, 3] to the stored values [B, ...], on the run's device.
Encoder = Callable[["Tensor"], "Tensor"]


class StoredFrames(Protocol):
    """An artifact of sampled frames."""

    def videos(self) -> Sequence[SampledVideo]:
        """Return the rows of all videos, including failed ones."""

    def frame_indices(self) -> dict[str, np.ndarray]:
        """Return the indices in the video of each video's frames, [T] int64, ascending, by video id."""

    def pixel_key(self, video: SampledVideo) -> str:
        """Return a key that, with a frame index, identifies pixels of a video."""

    def open(self) -> PoolReader:
        """Return a reader of the frames, uint8 [T, H, W, 3] per video."""


@dataclass(frozen=True)
class Encoding:
    """An encoder and the format of its output.

    Attributes:
        what: the model's name in messages.
        content: all that changes the result: a config, the identity of the weights.
        shape: of one frame's values.
        stored_as: their dtype on disk.
        load: loads the encoder on the run's device.
        fix: advice for values that cannot be stored.
    """

    what: str
    content: Mapping[str, Any]
    shape: tuple[int, ...]
    stored_as: str
    load: Callable[[], Encoder]
    fix: str


def larger_types(**types: str) -> str:
    """Return advice for values that cannot be stored: float32 for options of another type, if there are any."""
    smaller = [name for name, type in types.items() if type != "float32"]
    return f"set {' or '.join(smaller)} to float32" if smaller else "the weights are damaged, or another model's"


def encode_frames(frames: StoredFrames, encoding: Encoding, run: RunContext, out: ShardedOutput) -> None:
    """Encode the frames that the pool lacks, and write the tables `videos` and `parts` of each shard's videos."""
    videos, frame_indices = frames.videos(), frames.frame_indices()
    encoder = _FrameEncoder(encoding, run, out.stage.name)
    pool = out.pool(**encoding.content)
    problem = f"{encoding.what} gave values that {encoding.stored_as} cannot hold"

    def encode_shard(shard: Shard) -> None:
        shard_videos = [videos[item] for item in shard.items]
        keyed = _KeyedFrames(frames, frame_indices, shard_videos, shard.settings["batch_frames"])
        n_frames = sum(map(len, keyed.places.values()))
        with shard.phase("encode"), frame_progress(shard, n_frames) as progress:
            work = partial(encoder.add, pool, keyed, progress)
            pool.make(keyed.places, lambda key: not keyed.missing_of(pool, key), work)
        rows = [_row(video, keyed.bad_frames(video.video_id), problem) for video in shard_videos]
        shard.dropped.update(FEATURES for row in rows if row.reason.code == FEATURES)
        shard.write_rows("videos", rows)
        parts = {key: keyed.parts(pool, key) for key in keyed.places}
        rows_of_videos = [
            part_rows(row.video_id, frame_indices[row.video_id].tolist(), parts[keyed.keys[row.video_id]])
            for row in rows
            if row.status == "ok"
        ]
        shard.write_rows("parts", [part for video_rows in rows_of_videos for part in video_rows])

    out.each_shard(encode_shard)
    n_videos = sum(video.status == "ok" for video in videos)
    out.refuse_all(FEATURES, n_videos, f"{problem}, for every video; {encoding.fix}")


def _row(video: SampledVideo, bad: list[int], problem: str) -> VideoFeatures:
    if not bad:
        return VideoFeatures(video.video_id, video.status, video.reason, video.n_frames)
    others = f" and {len(bad) - 1} others of {video.n_frames}" if bad[1:] else ""
    return VideoFeatures(video.video_id, "failed", Reason(f"{FEATURES}: frame {bad[0]}{others}: {problem}"), 0)


class _KeyedFrames:
    """The frames of a shard's videos by pixel key, which several videos may share."""

    def __init__(
        self, frames: StoredFrames, indices: dict[str, np.ndarray], videos: list[SampledVideo], batch_frames: int
    ) -> None:
        self._frames, self._indices, self._batch_frames = frames, indices, batch_frames
        self.keys = {video.video_id: frames.pixel_key(video) for video in videos if video.status == "ok"}
        self.bad: dict[str, set[int]] = {}  # frames whose features are not finite, by key
        self.n_held = 0  # frames of started keys whose features the pool already has
        self.places: dict[str, dict[int, tuple[str, int]]] = {}  # (video id, row) of each frame, by key and index
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
        """Return the facts of a part with features of these frames: the checksums of their pixels."""
        return {"pixels": [self._pixels[key][index] for index in indices]}

    def parts(self, pool: Pool, key: str) -> list[Part]:
        """Return the parts of a key whose features were computed from the current pixels of its frames."""
        return [part for part in pool.parts(key) if self._has_current_pixels(part)]

    def _has_current_pixels(self, part: Part) -> bool:
        current, noted = self._pixels[part.key], part.facts.get("pixels", [])
        pairs = zip(part.frame_indices, noted, strict=False)
        return len(noted) == len(part.frame_indices) and all(
            current.get(index, checksum) == checksum for index, checksum in pairs
        )

    def missing_of(self, pool: Pool, key: str) -> list[int]:
        """Return the indices, ascending, of the frames of a key whose features the pool lacks."""
        held = {index for part in self.parts(pool, key) for index in part.frame_indices}
        return sorted(self.places[key].keys() - held)

    def missing(self, pool: Pool, keys: Iterator[str]) -> Iterator[tuple[_Piece, np.ndarray]]:
        """Yield the batches of pixels that the pool lacks features of, key by key, each with its piece.

        A batch has frames of one video only, as the last bits of features may depend on the rest of the batch.
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
        """Return the indices of a video's frames whose features are not finite."""
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
    """Frames of a key that are stored together."""

    key: str
    frames: list[int]  # indices in the video
    is_last: bool  # of the pieces that the pool lacks of the key


class _NotFiniteError(Exception):
    """The features of some frames cannot be stored."""

    def __init__(self, frames: set[int]) -> None:
        super().__init__(frames)
        self.frames = frames


class _Encoded(NamedTuple):
    """Features [B, ...] in transfer to the host, and which frames have finite ones, [B] bool."""

    features: Tensor
    finite: Tensor
    copied: Callable[[], None]  # waits for both transfers


class _FrameEncoder:
    """Adds features to the pool."""

    def __init__(self, encoding: Encoding, run: RunContext, name: str) -> None:
        self._stored_as, self._shape, self._run = encoding.stored_as, encoding.shape, run
        self._encoder = OnDemand(encoding.load)
        self._halving = Halving(name)

    def add(self, pool: Pool, keyed: _KeyedFrames, progress: FrameProgress, keys: Iterator[str]) -> Iterator[str]:
        """Add the missing features of these keys to the pool, and yield the keys; `keyed.bad` gets frames with non-finite ones.

        One thread reads frames, one computes, this one writes, and others sync and digest written files. A long video is stored
        in pieces, so that an interrupted encoding resumes after the last piece.
        """
        encoded = read_ahead(self._encoded(model_input(read_ahead(keyed.missing(pool, keys)))), depth=4)
        with ThreadPoolExecutor(PUBLISHERS) as publishers:
            written = (
                (piece, publishers.submit(self._write(pool, keyed, piece, (features for _, features in group))))
                for piece, group in groupby(encoded, key=lambda batch: batch[0])
            )
            for piece, published in behind(written, PUBLISHERS):
                published.result()
                progress.add(len(piece.frames), keyed.n_held)
                if piece.is_last:
                    yield piece.key

    def _write(self, pool: Pool, keyed: _KeyedFrames, piece: _Piece, encoded: Iterator[_Encoded]) -> Callable[[], None]:
        """Write the finite features of a piece, and return a function that publishes them."""
        key = piece.key

        def write(frames: list[int], batches: Iterator[_Encoded]) -> Callable[[], None]:
            features = self._finite(batches, frames)
            return pool.write(key, frames, self._shape, self._stored_as, features, keyed.facts(key, frames))

        try:
            return write(piece.frames, encoded)
        except _NotFiniteError as error:
            keyed.bad.setdefault(key, set()).update(error.frames)
        good = [index for index in piece.frames if index not in keyed.bad[key]]
        if not good:
            return lambda: None
        again = self._encoded((piece, pixels) for pixels in keyed.batches(key, good))
        return write(good, (features for _, features in again))

    def _finite(self, encoded: Iterator[_Encoded], frames: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the features of these frames, batch by batch; raise `_NotFiniteError` at the end if some are not finite."""
        bad: set[int] = set()
        done = 0
        for features, finite, _ in encoded:
            bad |= {frames[done + place] for place in np.flatnonzero(~finite.numpy()).tolist()}
            done += len(features)
            yield features.numpy()
        if bad:
            raise _NotFiniteError(bad)

    def _encoded(self, batches: Iterable[tuple[_Piece, np.ndarray]]) -> Iterator[tuple[_Piece, _Encoded]]:
        """Yield the features of batches; each next batch is queued on the device before the transfer of one is awaited."""

        def computed() -> Iterator[tuple[_Piece, _Encoded]]:
            for piece, batch in batches:
                encoder = self._encoder.model  # loaded with the first batch
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
            (features, finite), copied = to_host(features, features.isfinite().flatten(1).all(dim=1))
            return _Encoded(features, finite, copied)
