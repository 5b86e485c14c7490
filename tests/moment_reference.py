"""The benchmark's metrics for one query at a time in plain loops, as reference for the vectorised ones."""

from collections.abc import Sequence
from itertools import pairwise

Window = Sequence[float]


def iou(a: Window, b: Window) -> float:
    overlap = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return overlap / ((a[1] - a[0]) + (b[1] - b[0]) - overlap)


def average_precision(predicted: Sequence[Window], true: Sequence[Window], threshold: float) -> float:
    """Area under the interpolated precision-recall curve of the first ten windows, each matching one true window at most."""
    taken: set[int] = set()
    curve = [(0.0, 0.0)]  # (recall, precision) after each prediction
    for rank, window in enumerate(sorted(predicted[:10], key=lambda window: -window[2]), start=1):
        free = [number for number in range(len(true)) if number not in taken]
        best = max(free, key=lambda number: (iou(window, true[number]), number), default=None)
        if best is not None and iou(window, true[best]) >= threshold:
            taken.add(best)
        curve.append((len(taken) / len(true), len(taken) / rank))
    area = 0.0
    for (before, _), (recall, _) in pairwise(curve):
        area += (recall - before) * max(precision for reached, precision in curve if reached >= recall)
    return area


def is_recalled_at_one(predicted: Sequence[Window], true: Sequence[Window], threshold: float) -> bool:
    return bool(predicted) and any(iou(predicted[0], window) >= threshold for window in true)


def highlight_average_precision(scores: Sequence[float], is_right: Sequence[bool]) -> float:
    """Mean, over the score levels that add a right clip, of the best precision at that level or a lower one."""
    n_clips = len(is_right)
    scores = [*scores, *[0.0] * n_clips][:n_clips]
    levels = sorted(set(scores), reverse=True)
    right_at = [sum(right for score, right in zip(scores, is_right, strict=True) if score >= level) for level in levels]
    precision_at = [
        right / sum(score >= level for score in scores) for level, right in zip(levels, right_at, strict=True)
    ]
    points = [
        max(precision_at[number:])
        for number, right in enumerate(right_at)
        if right > (right_at[number - 1] if number else 0)
    ]
    return sum(points) / len(points) if points else 0.0
