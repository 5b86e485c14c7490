"""Frames of the true moments: the most that any choice of frames could give."""

import numpy as np
from numpy.typing import ArrayLike

from pipeline.metrics.localization_metrics import inside
from pipeline.selection.selector import Floats, Positions, selector
from pipeline.selection.uniform import uniform_positions


def oracle_positions(seconds: ArrayLike, moments: ArrayLike, k: int) -> Positions:
    """Ascending positions of `k` frames evenly spread over those of the frames at `seconds` [T] that lie in a true moment.

    `moments` [G, 2] in seconds, ends included; all such frames if there are at most k, none if no frame lies in one.
    Raises ValueError for k < 1.
    """
    true = np.flatnonzero(inside(seconds, moments).any(axis=1))
    return true[uniform_positions(len(true), k)]


@selector(version=1, source="no publication: an upper bound, where the annotations give the true moments")
def oracle(seconds: Floats, moments: Floats, k: int) -> Positions:
    """k frames evenly spread over those that lie in a true moment; fewer where fewer do, none where none does."""
    return oracle_positions(seconds, moments, k)
