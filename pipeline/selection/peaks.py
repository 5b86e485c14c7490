"""Peaks of the scores, best first, each with its neighbours, which show what comes just before and after it.

No publication: local maxima, as in non-maximum suppression, with context for short events.
"""

import numpy as np
from pydantic import Field

from pipeline.selection.selector import Floats, Options, Positions, selector
from pipeline.selection.top_k import top_k_positions


class PeaksOptions(Options):
    """The context of a peak."""

    neighbours: int = Field(1, ge=0, description="candidate frames chosen on each side of a peak")


@selector(version=1, source="no publication: local maxima with context")
def peaks(scores: Floats, k: int, options: PeaksOptions) -> Positions:
    """Return the highest peaks with their neighbours, nearest first, up to k frames; then the highest scores of the rest.

    A peak is the middle of a run of equal scores, mostly of one frame, between lower scores or the ends; of equal peaks the
    earlier comes first. Constant scores are one peak. If there are at most k frames, all are chosen.
    """
    n = len(scores)
    if n <= k:
        return np.arange(n)
    first = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    middles = (first + np.r_[first[1:], n] - 1) // 2
    heights = np.r_[-np.inf, scores[first], -np.inf]
    tops = middles[(heights[1:-1] > heights[:-2]) & (heights[1:-1] > heights[2:])]
    tops = tops[np.argsort(-scores[tops], kind="stable")][:k]
    # Nearest first: 0, -1, 1, -2, 2, ...; at most k frames on each side can be chosen.
    steps = np.arange(1, min(options.neighbours, k) + 1)
    offsets = np.r_[0, np.stack([-steps, steps], axis=1).ravel()]
    around = (tops[:, None] + offsets).ravel()
    around = around[(around >= 0) & (around < n)]
    chosen = around[np.sort(np.unique(around, return_index=True)[1])][:k]
    if len(chosen) < k:
        remaining = np.delete(np.arange(n), chosen)
        chosen = np.r_[chosen, remaining[top_k_positions(scores[remaining], k - len(chosen))]]
    return np.sort(chosen)
