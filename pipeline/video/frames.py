"""Frames of a video, and their pixels as the vision model takes them: index arithmetic and pixel scaling, numpy only.

A clip is the part of a video that a question is about, in seconds; frame indices count from 0 over the whole video, as displayed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.reasons import Reason

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")  # of folders of images, which are videos too

# Per (video_id, clip_id), its frames in time order: `frame_index`, `seconds` and stored `row`, each [T].
Clips = dict[tuple[str, str], dict[str, np.ndarray]]


class SampledVideo(NamedTuple):
    """The outcome of sampling a video's frames; all that is not known of a failed one is None."""

    video_id: str
    status: str  # ok or failed
    reason: Reason
    note: str  # what was adjusted (clip bounds clamped, ...); empty when nothing was
    content_digest: str | None  # SHA-256 of the file; None: no file
    decoder: str | None = None  # decord, pyav or images: the one that read the file
    codec: str | None = None  # of the pictures, as FFmpeg calls it
    n_frames_in_video: int | None = None  # in the file
    frames_per_second: float | None = None  # of the video
    duration_seconds: float | None = None  # of the video
    width: int | None = None  # of the coded pictures, in pixels
    height: int | None = None  # likewise
    n_frames: int = 0  # stored ones: the distinct ones over all clips


class SampledFrame(NamedTuple):
    """A frame of a clip: its place in the clip, in the video, and among the video's stored frames."""

    clip_id: str
    video_id: str
    position: int  # 0, 1, ... in time order within the clip; a short clip may repeat a frame
    frame_index: int
    seconds: float
    row: int  # of the video's stored frames, from 0


# CLIP's normalisation, which BLIP-2's ViT-g was trained with; RGB order.
PIXEL_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
PIXEL_STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)


@dataclass(frozen=True)
class Clip:
    """A part of a video in seconds; None means from the very beginning, or to the very end."""

    start_seconds: float | None = None
    end_seconds: float | None = None


@dataclass(frozen=True)
class UniformSampling:
    """`n_frames` frames at the middles of equal intervals."""

    n_frames: int

    def indices(self, n_video_frames: int, fps: float, start_frame: int, end_frame: int) -> np.ndarray:
        """Return the frames of [start_frame, end_frame) that are sampled, int64 [T], ascending; they may repeat."""
        return uniform_indices(n_video_frames, self.n_frames, start_frame, end_frame)


@dataclass(frozen=True)
class RandomSampling:
    """`n_frames` frames, one drawn from each of equal intervals.

    `seed` should name the video too (its digest as a number, say). The clip's bounds join it, so that a draw depends on the seed
    and the clip alone: not on the order of work, nor on what else is asked of the video.
    """

    n_frames: int
    seed: tuple[int, ...]

    def indices(self, n_video_frames: int, fps: float, start_frame: int, end_frame: int) -> np.ndarray:
        """Return the frames of [start_frame, end_frame) that are sampled, int64 [T], ascending; they may repeat."""
        rng = np.random.default_rng([*self.seed, start_frame, end_frame])
        return random_indices(n_video_frames, self.n_frames, start_frame, end_frame, rng)


@dataclass(frozen=True)
class FixedRateSampling:
    """`frames_per_second` frames for every second of the clip, for videos too long for a fixed number.

    A clip that would have more than `most_frames` has so many, at the middles of equal intervals.
    """

    frames_per_second: float
    most_frames: int | None = None

    def indices(self, n_video_frames: int, fps: float, start_frame: int, end_frame: int) -> np.ndarray:
        """Return the frames of [start_frame, end_frame) that are sampled, int64 [T], ascending; they may repeat."""
        indices = fixed_rate_indices(n_video_frames, fps, self.frames_per_second, start_frame, end_frame)
        if self.most_frames is None or len(indices) <= self.most_frames:
            return indices
        return uniform_indices(n_video_frames, self.most_frames, start_frame, end_frame)


@dataclass(frozen=True)
class EverySecondSampling:
    """Every n-th frame from the clip's first, n being the whole number of frames a second: what AKS and others score."""

    def indices(self, n_video_frames: int, fps: float, start_frame: int, end_frame: int) -> np.ndarray:
        """Return the frames of [start_frame, end_frame) that are sampled, int64 [T], ascending; they may repeat."""
        step = max(1, int(fps))
        n_frames = max(1, (end_frame - start_frame) // step)
        return np.minimum(start_frame + step * np.arange(n_frames, dtype=np.int64), n_video_frames - 1)


Sampling = UniformSampling | RandomSampling | FixedRateSampling | EverySecondSampling


@dataclass(frozen=True, eq=False)
class SampledClip:
    """The frames chosen from a clip, and what was clamped of it."""

    frame_indices: np.ndarray  # int64 [T], ascending, repeats kept
    note: str


@dataclass(frozen=True)
class VideoProbe:
    """Facts of a video before decoding. Where decord reads a file right, `n_frames` and `fps` are what it reports."""

    n_frames: int
    fps: float  # average frames a second
    duration_seconds: float  # n_frames / fps, the clock by which clips are cut; not the container's claim
    width: int  # as coded, before rotation
    height: int
    codec: str
    container: str
    decoder: str  # "decord", "pyav" or "images"
    note: str = ""  # why not decord, and anything odd


def sample_clip(clip: Clip, sampling: Sampling, n_video_frames: int, fps: float) -> SampledClip:
    """The frames that `sampling` takes from `clip` of a video with `n_video_frames` frames at `fps` frames a second."""
    start_frame, end_frame, note = clip_bounds(n_video_frames, fps, clip.start_seconds, clip.end_seconds)
    indices = sampling.indices(n_video_frames, fps, start_frame, end_frame)
    return SampledClip(indices, note)


def clip_bounds(
    n_video_frames: int, fps: float, start_seconds: float | None, end_seconds: float | None
) -> tuple[int, int, str]:
    """A clip in seconds as frames: (start_frame, end_frame, note), 0 <= start_frame <= end_frame <= n_video_frames.

    `int(seconds * fps)`, clamped to the video, as the official loader does. Annotations also hold nan (TVQA), reversed and
    out-of-range times; what was made of them is in the note, which is empty when there is nothing to say.
    """
    assert n_video_frames > 0 and fps > 0
    notes = []
    last_second = n_video_frames / fps
    start = 0.0 if start_seconds is None else float(start_seconds)
    end = last_second if end_seconds is None else float(end_seconds)
    if math.isnan(start):
        start = 0.0
        notes.append("start is not a number: taken from the beginning")
    if math.isnan(end):
        end = last_second
        notes.append("end is not a number: taken to the end")
    if start > end and end_seconds is not None:
        start, end = end, start
        notes.append("start lies after end: swapped")
    if start < 0 or start >= last_second:
        notes.append(f"start {start:g} s is outside the video (0 to {last_second:g} s): clamped")
    # An annotated end is often the duration rounded up; only a difference of a frame or more is worth a word.
    if end < 0 or end - last_second >= 1 / fps:
        notes.append(f"end {end:g} s is outside the video (0 to {last_second:g} s): clamped")
    start_frame = _clamped_frame(start, fps, n_video_frames)
    end_frame = n_video_frames if end_seconds is None else _clamped_frame(end, fps, n_video_frames)
    if start_frame >= end_frame and not notes:
        length = "has no length" if start == end else "is shorter than a frame"
        notes.append(f"clip from {start:g} to {end:g} s {length}: one frame stands for it")
    return start_frame, end_frame, "; ".join(notes)


def _clamped_frame(seconds: float, fps: float, n_video_frames: int) -> int:
    position = seconds * fps
    return int(min(max(position, 0.0), n_video_frames))  # clamped first: int() refuses infinity


def uniform_indices(n_video_frames: int, n_frames: int, start_frame: int, end_frame: int) -> np.ndarray:
    """Middles of equal intervals of [start_frame, end_frame): int64 [min(n_frames, n_video_frames)], ascending.

    As in the official loader, the number is capped by the frames of the whole video, not of the clip: in a clip with fewer frames
    indices repeat, and an index equal to the video's length (a clip that starts at the end) is clamped to the last frame.
    """
    edges = _interval_edges(n_video_frames, n_frames, start_frame, end_frame)
    return np.minimum((edges[:-1] + edges[1:]) // 2, n_video_frames - 1)


def random_indices(
    n_video_frames: int, n_frames: int, start_frame: int, end_frame: int, rng: np.random.Generator
) -> np.ndarray:
    """One uniform draw from each of the intervals of `uniform_indices`: int64, same shape, ascending.

    An interval without a frame of its own, in a clip shorter than `n_frames`, gives its start. The official code trains this way.
    """
    edges = _interval_edges(n_video_frames, n_frames, start_frame, end_frame)
    drawn = rng.integers(edges[:-1], np.maximum(edges[1:], edges[:-1] + 1))
    return np.minimum(drawn, n_video_frames - 1)


def _interval_edges(n_video_frames: int, n_frames: int, start_frame: int, end_frame: int) -> np.ndarray:
    assert n_frames > 0 and 0 <= start_frame <= end_frame <= n_video_frames
    n = min(n_frames, n_video_frames)
    return np.linspace(start_frame, end_frame, n + 1).astype(np.int64)  # truncates, as the official code does


def fixed_rate_indices(
    n_video_frames: int, fps: float, frames_per_second: float, start_frame: int, end_frame: int
) -> np.ndarray:
    """The frame in the middle of each 1/`frames_per_second` interval of the clip: int64 [T], ascending, T >= 1.

    The last, incomplete interval counts if its middle lies inside the clip; a clip shorter than half an interval gives its middle
    frame. Indices are unique unless `frames_per_second` exceeds `fps`, when they repeat as in `uniform_indices`.
    """
    assert fps > 0 and frames_per_second > 0 and 0 <= start_frame <= end_frame <= n_video_frames
    step = fps / frames_per_second
    n = max(0, math.ceil((end_frame - start_frame) / step - 0.5))
    if n == 0:
        return np.array([min((start_frame + end_frame) // 2, n_video_frames - 1)], dtype=np.int64)
    offsets = np.floor((np.arange(n) + 0.5) * step).astype(np.int64)
    return np.minimum(start_frame + offsets, n_video_frames - 1)
