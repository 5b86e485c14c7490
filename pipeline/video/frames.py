"""Sampling of a video's frames: index arithmetic, numpy only.

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
    """The outcome of sampling a video's frames; unknown facts of a failed video are None."""

    video_id: str
    status: str  # ok or failed
    reason: Reason
    note: str  # adjustments (clip bounds clamped, ...), or empty
    content_digest: str | None  # SHA-256 of the file; None if there is no file
    decoder: str | None = None  # that read the file: decord, pyav or images
    codec: str | None = None  # FFmpeg's name
    n_frames_in_video: int | None = None  # in the file
    frames_per_second: float | None = None  # of the video
    duration_seconds: float | None = None  # of the video
    width: int | None = None  # of the coded pictures, in pixels
    height: int | None = None  # likewise
    n_frames: int = 0  # number of stored frames: the distinct ones of all clips

    def problem(self) -> str:
        """Return which length a readable video cannot have; empty if it can."""
        lengths = self.n_frames_in_video, self.frames_per_second, self.duration_seconds
        if self.reason or all(length is not None and length > 0 for length in lengths):
            return ""
        return "has {} frames, {} a second, {} s; expected more than 0 of each".format(*lengths)


class SampledFrame(NamedTuple):
    """A frame of a clip."""

    clip_id: str
    video_id: str
    position: int  # 0, 1, ... in time order within the clip; a short clip may repeat a frame
    frame_index: int  # in the video
    seconds: float
    row: int  # among the video's stored frames, from 0


@dataclass(frozen=True)
class Clip:
    """A part of a video in seconds; None is the video's start or end."""

    start_seconds: float | None = None
    end_seconds: float | None = None


@dataclass(frozen=True)
class UniformSampling:
    """`n_frames` frames at the middles of equal intervals."""

    n_frames: int

    def indices(self, n_video_frames: int, fps: float, start_frame: int, end_frame: int) -> np.ndarray:
        """Return the sampled frames of [start_frame, end_frame), int64 [T], ascending, possibly with repeats."""
        return uniform_indices(n_video_frames, self.n_frames, start_frame, end_frame)


@dataclass(frozen=True)
class RandomSampling:
    """`n_frames` frames, one drawn from each of equal intervals.

    `seed` should include the video, for example its digest as a number. The clip's bounds are added to it, so that a draw depends
    only on the seed and the clip, not on the order of work or on other clips of the video.
    """

    n_frames: int
    seed: tuple[int, ...]

    def indices(self, n_video_frames: int, fps: float, start_frame: int, end_frame: int) -> np.ndarray:
        """Return the sampled frames of [start_frame, end_frame), int64 [T], ascending, possibly with repeats."""
        rng = np.random.default_rng([*self.seed, start_frame, end_frame])
        return random_indices(n_video_frames, self.n_frames, start_frame, end_frame, rng)


@dataclass(frozen=True)
class FixedRateSampling:
    """`frames_per_second` frames for every second of the clip, for videos too long for a fixed number.

    A clip that would have more than `most_frames` frames gets `most_frames`, at the middles of equal intervals.
    """

    frames_per_second: float
    most_frames: int | None = None

    def indices(self, n_video_frames: int, fps: float, start_frame: int, end_frame: int) -> np.ndarray:
        """Return the sampled frames of [start_frame, end_frame), int64 [T], ascending, possibly with repeats."""
        indices = fixed_rate_indices(n_video_frames, fps, self.frames_per_second, start_frame, end_frame)
        if self.most_frames is None or len(indices) <= self.most_frames:
            return indices
        return uniform_indices(n_video_frames, self.most_frames, start_frame, end_frame)


@dataclass(frozen=True)
class EverySecondSampling:
    """Every n-th frame from the clip's first, with n = int(frames a second), as AKS and others sample."""

    def indices(self, n_video_frames: int, fps: float, start_frame: int, end_frame: int) -> np.ndarray:
        """Return the sampled frames of [start_frame, end_frame), int64 [T], ascending, possibly with repeats."""
        step = max(1, int(fps))
        n_frames = max(1, (end_frame - start_frame) // step)
        return np.minimum(start_frame + step * np.arange(n_frames, dtype=np.int64), n_video_frames - 1)


Sampling = UniformSampling | RandomSampling | FixedRateSampling | EverySecondSampling


@dataclass(frozen=True, eq=False)
class SampledClip:
    """The frames sampled from a clip, and the note of `clip_bounds`."""

    frame_indices: np.ndarray  # int64 [T], ascending, repeats kept
    note: str


@dataclass(frozen=True)
class VideoProbe:
    """Facts of a video before decoding. `n_frames` and `fps` equal decord's wherever decord reads the file correctly."""

    n_frames: int
    fps: float  # average frames a second
    duration_seconds: float  # n_frames / fps, by which clips are cut; not the container's value
    width: int  # as coded, before rotation
    height: int
    codec: str
    container: str
    decoder: str  # "decord", "pyav" or "images"
    note: str = ""  # why decord is not used, and other irregularities


def sample_clip(clip: Clip, sampling: Sampling, n_video_frames: int, fps: float) -> SampledClip:
    """Sample `clip` of a video with `n_video_frames` frames at `fps` frames a second."""
    start_frame, end_frame, note = clip_bounds(n_video_frames, fps, clip.start_seconds, clip.end_seconds)
    return SampledClip(sampling.indices(n_video_frames, fps, start_frame, end_frame), note)


def clip_bounds(
    n_video_frames: int, fps: float, start_seconds: float | None, end_seconds: float | None
) -> tuple[int, int, str]:
    """Convert a clip to frames: (start_frame, end_frame, note), 0 <= start_frame <= end_frame <= n_video_frames.

    `int(seconds * fps)`, clamped to the video, as in the official loader. Annotations also have NaN (TVQA), reversed and
    out-of-range times; the note states how they were adjusted, and is empty otherwise.
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
    # An annotated end is often the duration rounded up: a difference of less than a frame is not noted.
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
    """Return middles of equal intervals of [start_frame, end_frame): int64 [min(n_frames, n_video_frames)], ascending.

    As in the official loader, the length of the whole video limits the number, not that of the clip: indices repeat in a clip
    with fewer frames, and an index equal to the video's length (a clip that starts at the end) is clamped to the last frame.
    """
    edges = _interval_edges(n_video_frames, n_frames, start_frame, end_frame)
    return np.minimum((edges[:-1] + edges[1:]) // 2, n_video_frames - 1)


def random_indices(
    n_video_frames: int, n_frames: int, start_frame: int, end_frame: int, rng: np.random.Generator
) -> np.ndarray:
    """Return one uniform draw from each interval of `uniform_indices`, as in the official training: int64, same shape, ascending.

    An empty interval, in a clip shorter than `n_frames`, gives its start.
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
    """Return the middle frame of each 1/`frames_per_second` interval of the clip: int64 [T], ascending, T >= 1.

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
