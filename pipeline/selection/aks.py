"""AKS: a video is halved where its best frames do not stand out, and each part gives its share of the frames.

Tang et al., Adaptive Keyframe Sampling for Long Video Understanding, CVPR 2025, arXiv 2502.21271.
"""

import numpy as np
from pydantic import Field

from pipeline.selection.scaling import min_max
from pipeline.selection.selector import Floats, Options, Positions, selector
from pipeline.selection.top_k import top_k_positions

ROUNDING = 1e-9  # far above that of a mean of scores from 0 to 1


class AksOptions(Options):
    """When a part is halved, and how often."""

    t1: float = Field(0.8, ge=0, description="a part is kept whole if its best k scores exceed its mean by more")
    t2: float = Field(-100.0, description="and if its standard deviation is higher (-100: always)")
    depth: int = Field(5, ge=0, le=30, description="times that a part is halved at most")
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
    chosen, parts = [], [(0, len(values))]
    for level in range(depth + 1):
        halves = []
        for first, end in parts:
            if level == depth or _stands_out(values[first:end], k, options):
                share = k >> level
                if share:
                    chosen.append(first + top_k_positions(values[first:end], share))
            else:
                middle = first + (end - first) // 2
                halves += [(first, middle), (middle, end)]
        parts = halves
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)


def _stands_out(part: Floats, k: int, options: AksOptions) -> bool:
    if not len(part) or part.max() - (mean := part.mean()) <= options.t1 - ROUNDING:
        return False  # most parts: no mean of the best scores can exceed their highest
    # Added up from the highest score on, as the official code does it: the sum's last bit may decide.
    best = -np.sort(np.partition(-part, min(k, len(part)) - 1)[:k])
    return bool(best.mean() - mean > options.t1 and part.std() > options.t2)
