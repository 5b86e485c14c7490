"""Peaks of the scores, best first, each with its neighbours: a moment is seen with what came just before and after.

No publication: local maxima, as in non-maximum suppression, with the context that short events need.
"""

import numpy as np
from pydantic import Field

from pipeline.selection.selector import Floats, Options, Positions, selector
from pipeline.selection.top_k import top_k_positions


class PeaksOptions(Options):
    """What comes with a peak."""

    neighbours: int = Field(1, ge=0, description="candidate frames on each side of a peak that are chosen with it")


@selector(version=1, source="no publication: local maxima with context")
def peaks(scores: Floats, k: int, options: PeaksOptions) -> Positions:
    """The highest peaks with their neighbours, nearest first, until k frames are chosen; then the highest scores of the rest.

    A peak is a run of equal scores, mostly of one frame, between lower ones or the ends; its middle stands for it, and of
    equal peaks the earlier comes first. Constant scores are one peak. All frames if there are at most k.
    """
    n = len(scores)
    if n <= k:
        return np.arange(n)
    first = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    middles = (first + np.r_[first[1:], n] - 1) // 2
    heights = np.r_[-np.inf, scores[first], -np.inf]
    tops = middles[(heights[1:-1] > heights[:-2]) & (heights[1:-1] > heights[2:])]
    tops = tops[np.argsort(-scores[tops], kind="stable")][:k]
    # Nearest first: 0, -1, 1, -2, 2, ...; more than k frames on a side are never wanted.
    steps = np.arange(1, min(options.neighbours, k) + 1)
    offsets = np.r_[0, np.stack([-steps, steps], axis=1).ravel()]
    around = (tops[:, None] + offsets).ravel()
    around = around[(around >= 0) & (around < n)]
    chosen = around[np.sort(np.unique(around, return_index=True)[1])][:k]
    if len(chosen) < k:
        rest = np.delete(np.arange(n), chosen)
        chosen = np.r_[chosen, rest[top_k_positions(scores[rest], k - len(chosen))]]
    return np.sort(chosen)
