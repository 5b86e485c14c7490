"""Metrics of moment retrieval and highlight detection (QVHighlights, Lei et al. 2021), vectorised over queries.

Q queries, P predicted windows, G true windows, C clips, N thresholds. Ragged lists are padded; a pair with padding has IoU -1,
which matches nothing. Agrees with the benchmark's evaluator to the two decimals that it prints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.text_table import Table, aligned, or_dash

Floats = NDArray[np.float64]

IOU_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
# A true window belongs to a range if low < seconds <= high; every window belongs to "full".
LENGTH_RANGES_SECONDS = {
    "full": (-math.inf, math.inf),
    "long": (30.0, 150.0),
    "middle": (10.0, 30.0),
    "short": (0.0, 10.0),
}
WINDOWS_KEPT = 10
HIGHLIGHT_LEVELS = {"Fair": 2, "Good": 3, "VeryGood": 4}  # minimum rating, of 0 to 4, of a highlight


@dataclass(frozen=True)
class RetrievalScores:
    """Moment retrieval over the queries with a true window in one range of lengths; all nan if there are none.

    At each of `IOU_THRESHOLDS`, in percent, [N]: `recall_at_one`, the share of queries whose first window reaches the IoU
    with any true window; `mean_average_precision`, the mean of the queries' average precisions.
    """

    n_queries: int
    recall_at_one: Floats
    mean_average_precision: Floats


@dataclass(frozen=True)
class HighlightScores:
    """Highlight detection at one level, in percent, nan without queries.

    `mean_average_precision` is over queries and annotators; `hit_at_one` is the share of queries whose highest-scored clip is
    a highlight for at least one annotator.
    """

    n_queries: int
    mean_average_precision: float
    hit_at_one: float


def retrieval_scores(predicted: Sequence[Floats], true: Sequence[Floats]) -> dict[str, RetrievalScores]:
    """Return scores by range of window lengths, given `predicted` [P, 3] (start, end in seconds, score) and `true` [G, 2].

    Both have an array per query. As in the benchmark, a range counts only the true windows of that length, evaluates all
    predictions against them, and omits queries without such a window. R1 uses the first window *as listed*; average precision
    uses the first 10 as listed, by descending score (equal scores as listed). A query without predicted windows has 0
    everywhere; the benchmark's evaluator fails on it.
    """
    if not true:
        missing = np.full(len(IOU_THRESHOLDS), np.nan)
        return {name: RetrievalScores(0, missing, missing) for name in LENGTH_RANGES_SECONDS}
    targets = _padded(true, 2)
    kept = [windows[:WINDOWS_KEPT] for windows in predicted]
    # R1 divides by the hull, average precision by the sum of lengths minus the overlap. For overlapping windows these differ
    # at most in the last bit, which matters if the IoU equals a threshold.
    first_iou = _iou(_padded([windows[:1] for windows in kept], 3), targets, by_hull=True)[:, 0]
    iou = _iou(_padded([windows[np.argsort(-windows[:, 2], kind="stable")] for windows in kept], 3), targets)
    seconds = targets[..., 1] - targets[..., 0]
    scores = {}
    for name, (low, high) in LENGTH_RANGES_SECONDS.items():
        counts = (seconds > low) & (seconds <= high)  # False for nan, the padding
        queries = counts.any(axis=1)
        best = np.where(counts, first_iou, -1)[queries].max(axis=1, initial=-1)
        precision = _average_precision(np.where(counts[:, None], iou, -1)[queries], counts[queries].sum(axis=1))
        recalled = best[:, None] >= np.array(IOU_THRESHOLDS)
        scores[name] = RetrievalScores(int(queries.sum()), _mean_percent(recalled), _mean_percent(precision))
    return scores


def _iou(windows: Floats, targets: Floats, by_hull: bool = False) -> Floats:
    """Return the temporal IoU of `windows` [Q, P, 2 or more] and `targets` [Q, G, 2]: [Q, P, G], -1 for padding."""
    start, end = windows[..., None, 0], windows[..., None, 1]
    target_start, target_end = targets[:, None, :, 0], targets[:, None, :, 1]
    overlap = np.maximum(np.minimum(end, target_end) - np.maximum(start, target_start), 0)
    if by_hull:
        union = np.maximum(end, target_end) - np.minimum(start, target_start)
    else:
        union = (end - start) + (target_end - target_start) - overlap
    return np.divide(overlap, union, out=np.full(overlap.shape, -1.0), where=union > 0)  # False for nan, the padding


def _average_precision(iou: Floats, n_true: NDArray[np.int64]) -> Floats:
    """Return the area under the interpolated precision-recall curve, [Q, N], for `iou` [Q, P, G], P by descending score.

    Each prediction in turn is matched to the free true window with the highest IoU (of equal ones, the later); it is correct
    if that reaches the threshold. Precision at a recall is the maximum precision at that recall or a higher one.
    """
    n_queries, n_windows, _ = iou.shape
    thresholds = np.array(IOU_THRESHOLDS)
    is_free = np.ones((n_queries, len(thresholds), iou.shape[2]), bool)
    right = np.zeros((n_queries, len(thresholds), n_windows))
    for rank in range(n_windows):
        candidates = np.where(is_free, iou[:, rank, None], -1)
        best = candidates.shape[2] - 1 - candidates[..., ::-1].argmax(axis=2, keepdims=True)
        reaches = np.take_along_axis(candidates, best, axis=2) >= thresholds[:, None]
        right[:, :, rank] = reaches[..., 0]
        np.put_along_axis(is_free, best, ~reaches & np.take_along_axis(is_free, best, axis=2), axis=2)
    precision = right.cumsum(axis=2) / np.arange(1, n_windows + 1)
    interpolated = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
    area: Floats = (interpolated * right).sum(axis=2) / n_true[:, None]
    return area


def highlight_scores(saliency: Sequence[Floats], ratings: Sequence[Floats]) -> dict[str, HighlightScores]:
    """Return scores by level, given predicted `saliency` [C'] and the annotators' `ratings` [C, 3], 0 to 4, per query.

    As in the benchmark, average precision cuts predictions for more clips than the video has and sets missing ones to 0; the
    highest-scored clip is that of all predictions, and is no hit beyond the video's end; an annotator without a highlight
    gives the query an average precision of 0. A query without predicted scores has 0 everywhere; the benchmark's evaluator
    fails on it.
    """
    if not ratings:
        return {level: HighlightScores(0, math.nan, math.nan) for level in HIGHLIGHT_LEVELS}
    rated = _padded(ratings, 3)  # [Q, C, 3]
    is_clip = ~np.isnan(rated[..., 0])
    scores = np.where(is_clip, 0.0, -np.inf)
    for row, values in zip(scores, saliency, strict=True):
        n_common = min(len(values), int(np.isfinite(row).sum()))
        row[:n_common] = values[:n_common]
    has_scores = np.array([len(values) > 0 for values in saliency])
    top = np.array([values.argmax() if len(values) else 0 for values in saliency])
    queries = np.flatnonzero(has_scores & (top < is_clip.sum(axis=1)))
    top_rating = np.zeros(len(ratings))
    top_rating[queries] = rated[queries, top[queries]].max(axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = np.take_along_axis(rated, order[..., None], axis=1)
    # Clips of equal score are retrieved together: the curve has a point only after the last of them, and none in the padding.
    is_point = _is_last_of_equals(np.take_along_axis(scores, order, axis=1))
    return {
        level: HighlightScores(
            len(ratings),
            float(100 * (_clip_average_precision(ranked >= min_rating, is_point) * has_scores[:, None]).mean()),
            float(100 * (top_rating >= min_rating).mean()),
        )
        for level, min_rating in HIGHLIGHT_LEVELS.items()
    }


def _is_last_of_equals(scores: Floats) -> NDArray[np.bool_]:
    """Return where the next of descending `scores` [Q, C] is lower; False at -inf, the padding."""
    following = np.concatenate([scores[:, 1:], np.full((len(scores), 1), -np.inf)], axis=1)
    return (scores != following) & np.isfinite(scores)


def _clip_average_precision(right: NDArray[np.bool_], is_point: NDArray[np.bool_]) -> Floats:
    """Return the mean interpolated precision over the points where recall rises, [Q, A], of ranked clips `right` [Q, C, A].

    Every such point counts once, however many clips of equal score it adds; 0 where no clip is right.
    """
    n_right = np.where(is_point[..., None], right.cumsum(axis=1), 0)
    precision = n_right / np.arange(1, right.shape[1] + 1)[:, None]
    interpolated = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    before = np.maximum.accumulate(np.concatenate([np.zeros_like(n_right[:, :1]), n_right[:, :-1]], axis=1), axis=1)
    rises = n_right > before
    total: Floats = (interpolated * rises).sum(axis=1) / np.maximum(rises.sum(axis=1), 1)
    return total


def _padded(parts: Sequence[Floats], width: int) -> Floats:
    """Stack [n, width] arrays of different n into [Q, max n, width], padded with nan to at least one row."""
    padded = np.full((len(parts), max([1, *map(len, parts)]), width), np.nan)
    for row, part in zip(padded, parts, strict=True):
        row[: len(part)] = part
    return padded


def _mean_percent(values: NDArray[Any]) -> Floats:
    """Return the mean over queries of [Q, N], in percent: [N]; nan without queries."""
    return 100 * values.mean(axis=0) if len(values) else np.full(values.shape[1], np.nan)


def benchmark_report(
    retrieval: dict[str, RetrievalScores] | None, highlights: dict[str, HighlightScores] | None
) -> dict[str, dict[str, Any]]:
    """Return the metrics in the layout and rounding of the benchmark's evaluator; None where there was no query."""
    brief: dict[str, float | None] = {}
    report: dict[str, dict[str, Any]] = {"brief": brief}
    for level, scores in (highlights or {}).items():
        mean, hit = _rounded(scores.mean_average_precision), _rounded(scores.hit_at_one)
        report[f"HL-min-{level}"] = {"HL-mAP": mean, "HL-Hit1": hit}
    names = [str(threshold) for threshold in IOU_THRESHOLDS]
    for length, retrieved in (retrieval or {}).items():
        precision = retrieved.mean_average_precision
        precisions = dict(zip([*names, "average"], map(_rounded, [*precision, precision.mean()]), strict=True))
        recalls = dict(zip(names, map(_rounded, retrieved.recall_at_one), strict=True))
        report[length] = {"MR-mAP": precisions, "MR-R1": recalls}
    if retrieval is not None:
        full = report["full"]
        brief |= {f"MR-full-R1@{name}": full["MR-R1"][name] for name in ("0.5", "0.7")}
        brief["MR-full-mAP"] = full["MR-mAP"]["average"]
        brief |= {f"MR-full-mAP@{name}": full["MR-mAP"][name] for name in ("0.5", "0.75")}
        brief |= {f"MR-{name}-mAP": report[name]["MR-mAP"]["average"] for name in ("long", "middle", "short")}
    for level in highlights or {}:
        for metric, value in report[f"HL-min-{level}"].items():
            brief[f"HL-min-{level}-{metric.removeprefix('HL-')}"] = value
    return report


def _rounded(percent: float) -> float | None:
    return None if math.isnan(percent) else float(f"{percent:.2f}")


def format_report(report: dict[str, dict[str, Any]], table: Table = aligned) -> str:
    """Format the report as tables; "-" where there was no query."""
    lengths = [name for name in LENGTH_RANGES_SECONDS if name in report]
    lines: list[list[str]] = []
    if lengths:
        lines.append(["", *map(str, IOU_THRESHOLDS), "average"])
    for metric in ("MR-R1", "MR-mAP"):
        for length in lengths:
            cells = [or_dash(value, "{:.2f}") for value in report[length][metric].values()]
            lines.append([f"{metric.removeprefix('MR-')} {length}", *cells, *[""] * (len(lines[0]) - 1 - len(cells))])
    tables = [table(lines)] if lines else []
    levels = [
        [name.removeprefix("HL-min-"), *(or_dash(value, "{:.2f}") for value in values.values())]
        for name, values in report.items()
        if name.startswith("HL-")
    ]
    if levels:
        tables.append(table([["", "mAP", "HIT@1"], *levels]))
    return "\n\n".join(tables)
