"""Moment retrieval: from frame scores to the spans of a clip that match the query (paper section 4.5).

T sampled frames of one query, in time order. A clip of `end - start` seconds is divided into T equal intervals, and frame i
represents the i-th, as frames are sampled at the middle of each interval or drawn from it: the frame's time plus and minus half
the spacing, up to rounding to whole frames. 75 frames of 150 s represent 2 s each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.reasons import Reason

SpanScore = Literal["mean", "max"]


class RankedMoment(NamedTuple):
    """A retrieved moment of a query."""

    question_id: str
    rank: int  # from 1, by descending score
    start_seconds: float  # in the video
    end_seconds: float
    score: float  # from those of its frames

    def problem(self) -> str:
        """Return why this is no part of a video; empty if it is one."""
        is_part = 0 <= self.start_seconds <= self.end_seconds
        return "" if is_part else f"has a moment from {self.start_seconds} to {self.end_seconds} s"


class Query(NamedTuple):
    """The outcome of a query; a row of the table `queries`. What is unknown for a failed query is None."""

    question_id: str
    video_id: str
    status: str  # ok or failed
    reason: Reason
    duration_seconds: float | None = None  # of the video
    clip_start_seconds: float | None = None  # of the sampled part of the video
    clip_end_seconds: float | None = None  # likewise
    n_yes_frames: int | None = None  # of n_frames, those with answer yes
    n_frames: int = 0  # sampled from the clip
    n_moments: int = 0  # retrieved
    clip_scores: Sequence[float] = ()  # saliency: a frame score for every 2 s of the video; empty if failed


def interval_edges(start_seconds: float, end_seconds: float, n_frames: int) -> NDArray[np.float64]:
    """Return the edges of the intervals of a clip's `n_frames` frames, in seconds, [T + 1]; frame i: edges i to i + 1.

    Raises ValueError for no frame, or for a clip that ends before it starts.
    """
    if n_frames < 1 or not end_seconds >= start_seconds:
        raise ValueError(
            f"{n_frames} frames from {start_seconds} to {end_seconds} s; expected at least 1, start <= end"
        )
    return np.linspace(start_seconds, end_seconds, n_frames + 1)


def yes_spans(is_yes: ArrayLike, span_threshold: int) -> NDArray[np.int64]:
    """Return the first and last position of each span of yes frames, [S, 2], ascending.

    Consecutive yes frames belong to one span if at most `span_threshold` no frames lie between them; a span starts and ends
    with a yes frame (paper section 4.5, with threshold 6). Raises ValueError for a negative threshold or a shape other than
    [T].
    """
    answers = np.asarray(is_yes, bool)
    if answers.ndim != 1 or span_threshold < 0:
        raise ValueError(
            f"answers have the shape {answers.shape}, span_threshold is {span_threshold}; expected [T], >= 0"
        )
    yes = np.flatnonzero(answers)
    if not len(yes):
        return np.empty((0, 2), np.int64)
    breaks = np.flatnonzero(np.diff(yes) - 1 > span_threshold)
    return np.stack([yes[np.r_[0, breaks + 1]], yes[np.r_[breaks, len(yes) - 1]]], axis=1)


def ranked_moments(spans: ArrayLike, values: ArrayLike, edges: ArrayLike, score_by: SpanScore) -> NDArray[np.float64]:
    """Return the spans as moments, best first: [S, 3] of start in seconds, end in seconds and score.

    The score of a span is the mean or maximum of `values` [T] over all its frames, no frames included; the paper does not
    state how spans are ranked. Of equal scores, the earlier moment comes first. `spans` [S, 2] as from `yes_spans`,
    `edges` [T + 1] as from `interval_edges`. Raises ValueError for another number of edges.
    """
    bounds, frame_values, seconds = np.asarray(spans, np.int64), np.asarray(values, np.float64), np.asarray(edges)
    if len(seconds) != len(frame_values) + 1:
        raise ValueError(f"{len(frame_values)} values and {len(seconds)} edges; expected one edge more than values")
    parts = [frame_values[first : last + 1] for first, last in bounds]
    scores = np.array([part.mean() if score_by == "mean" else part.max() for part in parts], np.float64)
    moments = np.column_stack([seconds[bounds[:, 0]], seconds[bounds[:, 1] + 1], scores])
    return moments[np.argsort(-scores, kind="stable")]


def clip_values(
    values: ArrayLike, edges: ArrayLike, duration_seconds: float, clip_seconds: float
) -> NDArray[np.float64]:
    """Return one value per `clip_seconds` of a video, [C]: that of the frame whose interval contains the clip's middle.

    C is `duration_seconds / clip_seconds`, rounded, at least 1, so that a 150 s video that decodes to 149.98 s has 75 clips
    of 2 s. Clips outside the sampled part of the video have the minimum of `values`. Raises ValueError for no values or a
    duration that is not positive.
    """
    frame_values, seconds = np.asarray(values, np.float64), np.asarray(edges)
    if not len(frame_values) or len(seconds) != len(frame_values) + 1 or not min(duration_seconds, clip_seconds) > 0:
        raise ValueError(
            f"{len(frame_values)} values, {len(seconds)} edges, {duration_seconds} s; expected T, T + 1, > 0"
        )
    middles = (np.arange(max(1, round(duration_seconds / clip_seconds))) + 0.5) * clip_seconds
    middles = np.minimum(middles, duration_seconds)  # for a video shorter than half a clip
    positions = np.clip(np.searchsorted(seconds, middles, side="right") - 1, 0, len(frame_values) - 1)
    outside = (middles < seconds[0]) | (middles > seconds[-1])
    return np.where(outside, frame_values.min(), frame_values[positions])
