"""AKS: split a video in halves, recursively, where its best frames do not stand out; each part gets a share of the k frames.

Tang et al., Adaptive Keyframe Sampling for Long Video Understanding, CVPR 2025, arXiv 2502.21271.
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.selection.scaling import min_max
from pipeline.selection.selector import Floats, Options, Positions, selector

ROUNDING = 1e-9  # far above the rounding error of a mean of scores between 0 and 1


class AksOptions(Options):
    """When a part is split, and how often."""

    t1: float = Field(
        0.8, ge=0, description="a part is not split if the mean of its k best scores exceeds its mean score by more"
    )
    t2: float = Field(-100.0, description="and if the standard deviation of its scores is higher (-100: always)")
    depth: int = Field(5, ge=0, le=16, description="maximum number of times a part is split in halves")
    official: bool = Field(
        False,
        description="split up to `depth` for any k, as the official code does; it chooses no frame where 2**depth > k",
    )


@selector(version=1, source="AKS, CVPR 2025, arXiv 2502.21271")
def aks(scores: Floats, k: int, options: AksOptions) -> Positions:
    """Return the best `k // 2**d` frames of each part that was split d times; of equal scores, the earlier frames.

    Fewer than k frames are chosen where k is not a multiple of 2**d. With fewer candidates than k, all are chosen. With
    constant scores no frame stands out: parts are split to the maximum depth, and each gives its first frames.
    """
    if len(scores) < k:
        return np.arange(len(scores))
    depth = options.depth if options.official else min(options.depth, k.bit_length() - 1)
    values = min_max(scores)
    chosen, parts = [np.empty(0, np.int64)], np.array([[0, len(values)]])  # parts [P, 2]: start and exclusive end
    for level in range(depth + 1):
        final = _stands_out(values, parts, k, options) if level < depth else np.ones(len(parts), bool)
        if k >> level and final.any():
            chosen.append(_best_positions(values, parts[final], k >> level))
        split = parts[~final]
        middles = split.sum(axis=1) // 2
        parts = np.stack([split[:, 0], middles, middles, split[:, 1]], axis=1).reshape(-1, 2)
    return np.sort(np.concatenate(chosen))


def _stands_out(values: Floats, parts: Positions, k: int, options: AksOptions) -> NDArray[np.bool_]:
    """Return whether the best frames of each of the parts [P, 2] stand out, so that it is not split: [P]."""
    if not len(parts):
        return np.empty(0, bool)
    padded = np.r_[values, 0.0]  # reduceat needs the end of the last part to be a valid index
    lengths = np.maximum(parts[:, 1] - parts[:, 0], 1)
    means = np.add.reduceat(padded, parts.ravel())[::2] / lengths
    # The mean of the best scores is at most the maximum, which rules most parts out cheaply.
    stands_out = np.maximum.reduceat(padded, parts.ravel())[::2] - means > options.t1 - ROUNDING
    for index in np.flatnonzero(stands_out):
        part = values[slice(*parts[index])]
        # Summed in descending order, as in the official code: the last bit of the sum can matter.
        best = -np.sort(np.partition(-part, min(k, len(part)) - 1)[:k]) if len(part) else part
        stands_out[index] = len(part) and best.mean() - part.mean() > options.t1 and part.std() > options.t2
    return stands_out


def _best_positions(values: Floats, parts: Positions, n: int) -> Positions:
    """Return the positions of the `n` highest values of each of the parts [P, 2], each at least n long."""
    positions = parts[:, :1] + np.arange((parts[:, 1] - parts[:, 0]).max())
    rows = np.where(positions < parts[:, 1:], values[np.minimum(positions, len(values) - 1)], -np.inf)
    lowest_chosen = np.partition(rows, -n, axis=1)[:, [-n]]
    higher, equal = rows > lowest_chosen, rows == lowest_chosen
    n_equal = n - higher.sum(axis=1, keepdims=True)
    return positions[higher | (equal & (equal.cumsum(axis=1) <= n_equal))]
