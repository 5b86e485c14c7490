"""Localisation metrics of keyframes and of the frame ranking, for questions with known true moments.

T sampled frames of one question, in time order. A frame is true if it lies in a true moment, ends included, as the official
code labels frames for the Localizer's pre-training.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.text_table import Table, aligned, or_dash


@dataclass(frozen=True)
class KeyframeQuality:
    """Metrics of one question's keyframes, each from 0 to 1.

    Attributes:
        precision: share of keyframes inside a true moment; 0 without keyframes.
        frame_recall: share of the sampled frames inside a true moment that are chosen; None if there is no such frame.
        moment_recall: share of true moments with a keyframe inside.
        hit: 1 if any keyframe is inside a true moment, else 0.
    """

    precision: float
    frame_recall: float | None
    moment_recall: float
    hit: float


def inside(seconds: ArrayLike, moments: ArrayLike) -> NDArray[np.bool_]:
    """Return whether each frame, at `seconds` [T], lies in each of `moments` [G, 2], start <= frame <= end: [T, G]."""
    times, bounds = np.asarray(seconds, np.float64), np.asarray(moments, np.float64).reshape(-1, 2)
    is_inside: NDArray[np.bool_] = (times[:, None] >= bounds[:, 0]) & (times[:, None] <= bounds[:, 1])
    return is_inside


def keyframe_quality(positions: ArrayLike, seconds: ArrayLike, moments: ArrayLike) -> KeyframeQuality:
    """Evaluate the keyframes at `positions` [k] among frames at `seconds` [T] against the true `moments` [G, 2].

    A repeated position counts once. Raises ValueError without moments.
    """
    is_inside = inside(seconds, moments)
    if not is_inside.shape[1]:
        raise ValueError("no true moments; the localisation of a question without them is not known")
    chosen: NDArray[np.bool_] = is_inside[np.unique(np.asarray(positions, np.int64))]
    n_true_frames = int(np.count_nonzero(is_inside.any(axis=1)))
    n_right = int(np.count_nonzero(chosen.any(axis=1)))
    return KeyframeQuality(
        precision=n_right / len(chosen) if len(chosen) else 0.0,
        frame_recall=n_right / n_true_frames if n_true_frames else None,
        moment_recall=float(chosen.any(axis=0).mean()),
        hit=float(n_right > 0),
    )


def first_true_rank(scores: ArrayLike, seconds: ArrayLike, moments: ArrayLike) -> int | None:
    """Return the rank, from 1, of the best-ranked frame inside a true moment; None if no sampled frame is inside one.

    Frames are ranked by descending `scores` [T], equal ones in time order, as in keyframe selection.
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    is_true = np.asarray(inside(seconds, moments).any(axis=1))
    ranks = np.flatnonzero(is_true[order])
    return int(ranks[0]) + 1 if len(ranks) else None


@dataclass(frozen=True)
class LocalizationRow:
    """Means over questions with known moments; percentages and ranks are None if no question supports them.

    `n_questions` is the denominator; `n_failed` of these have no frames (their video could not be read) and count as 0.
    Questions of `n_without_true_frame` count neither in `frame_recall_percent` nor in the ranks.
    """

    source: str  # keyframes: as chosen; ranking: the k best by the Localizer's score
    k: int  # for keyframes: the maximum of a question
    n_questions: int  # with known true moments
    n_failed: int  # of n_questions: without frames; they count as 0
    n_without_true_frame: int  # of n_questions: no sampled frame lies in a true moment
    precision_percent: float | None  # share of keyframes in a true moment
    frame_recall_percent: float | None  # share of the sampled frames in a true moment that are chosen
    moment_recall_percent: float | None  # share of true moments with a keyframe inside
    hit_percent: float | None  # share of questions with a keyframe in a true moment
    mean_first_true_rank: float | None  # from 1, of the best-ranked frame in a true moment


def localization_row(
    source: str, k: int, keyframes: Iterable[KeyframeQuality | None], ranks: Sequence[int | None]
) -> LocalizationRow:
    """Average questions; in `keyframes` None is a question without frames, in `ranks` one without a true frame or a ranking."""
    precisions, recalls, moment_recalls, hits = (array("d") for _ in range(4))
    n_failed = 0
    for quality in keyframes:
        if quality is None:
            n_failed += 1
            continue
        precisions.append(quality.precision)
        moment_recalls.append(quality.moment_recall)
        hits.append(quality.hit)
        if quality.frame_recall is not None:
            recalls.append(quality.frame_recall)
    known = [rank for rank in ranks if rank is not None]

    def percent(values: array[float], n_zero: int) -> float | None:
        return 100 * sum(values) / (len(values) + n_zero) if values or n_zero else None

    return LocalizationRow(
        source=source,
        k=k,
        n_questions=len(precisions) + n_failed,
        n_failed=n_failed,
        n_without_true_frame=len(precisions) - len(recalls),
        precision_percent=percent(precisions, n_failed),
        frame_recall_percent=percent(recalls, n_failed),
        moment_recall_percent=percent(moment_recalls, n_failed),
        hit_percent=percent(hits, n_failed),
        mean_first_true_rank=sum(known) / len(known) if known else None,
    )


def format_localization(rows: Sequence[LocalizationRow], table: Table = aligned) -> str:
    """Format the rows as a table, "-" for a missing number."""
    lines: list[tuple[str, ...]] = [
        ("", "k", "questions", "failed", "precision", "frame recall", "moment recall", "hit", "first true rank")
    ]
    for row in rows:
        percents = (row.precision_percent, row.frame_recall_percent, row.moment_recall_percent, row.hit_percent)
        counts = (str(row.k), str(row.n_questions), str(row.n_failed))
        lines.append((row.source, *counts, *map(or_dash, percents), or_dash(row.mean_first_true_rank, "{:.2f}")))
    return table(lines)
