"""The frames with the highest scores: the selection of SeViLA's Localizer (arXiv 2305.06988, section 3.2)."""

import numpy as np
from numpy.typing import ArrayLike

from pipeline.selection.selector import Floats, Positions, selector


def top_k_positions(scores: ArrayLike, k: int) -> Positions:
    """Return the ascending positions of the `k` highest of `scores` [T]; all if k >= T; of equal scores, the earlier.

    Raises ValueError for a nan among the scores, for scores that are not [T], and for k < 1.
    """
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or np.isnan(values).any():
        raise ValueError(
            f"scores have the shape {values.shape} and {np.isnan(values).sum()} nan; expected [T] without nan"
        )
    if k < 1:
        raise ValueError(f"{k} of {len(values)} frames; expected at least 1")
    if k >= len(values):
        return np.arange(len(values))
    lowest_chosen = np.partition(values, len(values) - k)[len(values) - k]
    chosen = values > lowest_chosen
    chosen[np.flatnonzero(values == lowest_chosen)[: k - chosen.sum()]] = True
    return np.flatnonzero(chosen)


@selector(version=1, source="SeViLA, NeurIPS 2023, arXiv 2305.06988")
def top_k(scores: Floats, k: int) -> Positions:
    """Return the frames with the k highest scores; of equal scores, the earlier frame."""
    return top_k_positions(scores, k)
