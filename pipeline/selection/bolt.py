"""BOLT: frames at equal steps of the scores' cumulative distribution, so that where scores are high, frames are close.

Liu et al., BOLT: Boost Large Vision-Language Model Without Training for Long-form Video Understanding, CVPR 2025,
arXiv 2503.21483.
"""

import numpy as np
from pydantic import Field

from pipeline.selection.scaling import min_max
from pipeline.selection.selector import Floats, Options, Positions, selector


class BoltOptions(Options):
    """How sharply the scores decide."""

    power: float = Field(
        1.0, gt=0, description="of the scores from 0 to 1; 1 leaves them (the official code writes -1)"
    )


@selector(version=1, source="BOLT, CVPR 2025, arXiv 2503.21483", repeats=True)
def bolt(scores: Floats, k: int, options: BoltOptions) -> Positions:
    """The frames at which the distribution reaches k steps from 1/k to 1 - 1/k; one that holds several steps comes as often.

    k = 1: where it reaches a half (the formula's own 1 would be the last frame). Fewer candidates than k: each once.
    Constant scores: all weigh the same, so that frames are evenly spread.
    """
    if len(scores) < k:
        return np.arange(len(scores))
    weights = min_max(scores) ** options.power
    if not weights.any():
        weights = np.ones(len(scores))
    steps = np.linspace(1 / k, 1 - 1 / k, k) if k > 1 else np.array([0.5])
    return np.searchsorted(np.cumsum(weights / weights.sum()), steps).clip(max=len(scores) - 1)
