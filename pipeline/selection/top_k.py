"""The highest scores, wherever they are: what SeViLA's Localizer chooses by (arXiv 2305.06988, section 3.2)."""

import numpy as np
from numpy.typing import ArrayLike

from pipeline.selection.selector import Floats, Positions, selector


def top_k_positions(scores: ArrayLike, k: int) -> Positions:
    """Ascending positions of the `k` highest of `scores` [T]; all if k >= T; of equal scores the earlier frame's.

    Raises ValueError for a nan among the scores, for scores that are not [T], and for k < 1.
    """
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or np.isnan(values).any():
        raise ValueError(
            f"scores have the shape {values.shape} and {np.isnan(values).sum()} nan; [T] without nan wanted"
        )
    if k < 1:
        raise ValueError(f"{k} of {len(values)} frames: at least 1 was wanted")
    if k >= len(values):
        return np.arange(len(values))
    lowest = np.partition(values, len(values) - k)[len(values) - k]  # of the chosen scores
    chosen = values > lowest
    chosen[np.flatnonzero(values == lowest)[: k - chosen.sum()]] = True
    return np.flatnonzero(chosen)


@selector(version=1, source="SeViLA, NeurIPS 2023, arXiv 2305.06988")
def top_k(scores: Floats, k: int) -> Positions:
    """The k highest scores; of equal ones the earlier frame."""
    return top_k_positions(scores, k)
