"""BOLT: inverse transform sampling: frames at equal steps of the scores' cumulative distribution, denser where scores are high.

Liu et al., BOLT: Boost Large Vision-Language Model Without Training for Long-form Video Understanding, CVPR 2025,
arXiv 2503.21483.
"""

import numpy as np
from pydantic import Field

from pipeline.selection.scaling import min_max
from pipeline.selection.selector import Floats, Options, Positions, selector


class BoltOptions(Options):
    """How sharply the scores are weighted."""

    power: float = Field(
        1.0, gt=0, description="exponent of the scores scaled to 0 to 1; 1: unchanged (-1 in the official code)"
    )


@selector(version=1, source="BOLT, CVPR 2025, arXiv 2503.21483", repeats=True)
def bolt(scores: Floats, k: int, options: BoltOptions) -> Positions:
    """Return the frames at which the distribution reaches k steps from 1/k to 1 - 1/k; a frame is repeated for each step.

    k = 1: the frame at which it reaches a half (the formula would give the last frame). Fewer candidates than k: each once.
    Constant scores: evenly spread frames.
    """
    if len(scores) < k:
        return np.arange(len(scores))
    weights = min_max(scores) ** options.power
    if not weights.any():
        weights = np.ones(len(scores))
    steps = np.linspace(1 / k, 1 - 1 / k, k) if k > 1 else np.array([0.5])
    return np.searchsorted(np.cumsum(weights / weights.sum()), steps).clip(max=len(scores) - 1)
