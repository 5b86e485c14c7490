"""AKS: a video is halved where its best frames do not stand out, and each part gives its share of the frames.

Tang et al., Adaptive Keyframe Sampling for Long Video Understanding, CVPR 2025, arXiv 2502.21271.
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.selection.scaling import min_max
from pipeline.selection.selector import Floats, Options, Positions, selector

ROUNDING = 1e-9  # far above that of a mean of scores from 0 to 1


class AksOptions(Options):
    """When a part is halved, and how often."""

    t1: float = Field(0.8, ge=0, description="a part is kept whole if its best k scores exceed its mean by more")
    t2: float = Field(-100.0, description="and if its standard deviation is higher (-100: always)")
    depth: int = Field(5, ge=0, le=16, description="times that a part is halved at most")
    official: bool = Field(
        False,
        description="halve to `depth` at any k, as the official code, which then chooses nothing where 2**depth > k",
    )


@selector(version=1, source="AKS, CVPR 2025, arXiv 2502.21271")
def aks(scores: Floats, k: int, options: AksOptions) -> Positions:
    """The best `k // 2**d` frames of each part that was halved d times; of equal scores the earlier frames.

    Fewer than k frames are chosen where k is no multiple of 2**d. Fewer candidates than k: all. Constant scores: no frame
    stands out, so that parts are halved as far as they may be and each gives its first frames.
    """
    if len(scores) < k:
        return np.arange(len(scores))
    depth = options.depth if options.official else min(options.depth, k.bit_length() - 1)
    values = min_max(scores)
    chosen, parts = [np.empty(0, np.int64)], np.array([[0, len(values)]])  # first frame, and the one after the last
    for level in range(depth + 1):
        whole = _stand_out(values, parts, k, options) if level < depth else np.ones(len(parts), bool)
        if k >> level and whole.any():
            chosen.append(_best(values, parts[whole], k >> level))
        halved = parts[~whole]
        middles = halved.sum(axis=1) // 2
        parts = np.stack([halved[:, 0], middles, middles, halved[:, 1]], axis=1).reshape(-1, 2)
    return np.sort(np.concatenate(chosen))


def _stand_out(values: Floats, parts: Positions, k: int, options: AksOptions) -> NDArray[np.bool_]:
    """Which of the parts [P, 2] are kept whole, [P]."""
    if not len(parts):
        return np.empty(0, bool)
    padded = np.r_[values, 0.0]  # reduceat wants the end of the last part to be an index
    lengths = np.maximum(parts[:, 1] - parts[:, 0], 1)
    means = np.add.reduceat(padded, parts.ravel())[::2] / lengths
    # No mean of the best scores exceeds the highest: most parts need no closer look.
    maybe = np.maximum.reduceat(padded, parts.ravel())[::2] - means > options.t1 - ROUNDING
    for number in np.flatnonzero(maybe):
        part = values[slice(*parts[number])]
        # Added up from the highest score on, as the official code does it: the sum's last bit may decide.
        best = -np.sort(np.partition(-part, min(k, len(part)) - 1)[:k]) if len(part) else part
        maybe[number] = len(part) and best.mean() - part.mean() > options.t1 and part.std() > options.t2
    return maybe


def _best(values: Floats, parts: Positions, share: int) -> Positions:
    """The positions of the `share` highest values of each of the parts [P, 2], none of which is shorter."""
    places = parts[:, :1] + np.arange((parts[:, 1] - parts[:, 0]).max())
    rows = np.where(places < parts[:, 1:], values[np.minimum(places, len(values) - 1)], -np.inf)
    lowest = np.partition(rows, -share, axis=1)[:, [-share]]  # of the chosen ones
    higher, equal = rows > lowest, rows == lowest
    n_equal = share - higher.sum(axis=1, keepdims=True)
    return places[higher | (equal & (equal.cumsum(axis=1) <= n_equal))]
