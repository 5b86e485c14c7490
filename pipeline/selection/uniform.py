"""Evenly spread frames, whatever their scores: the baseline of every paper."""

import numpy as np

from pipeline.selection.selector import Positions, selector


def uniform_positions(n: int, k: int) -> Positions:
    """Ascending midpoints of `k` equal intervals over `n` sampled frames; all if k >= n.

    The same arithmetic as uniform sampling from the video: interval edges truncated to integers, midpoints rounded down.
    """
    edges = np.linspace(0, n, min(n, k) + 1).astype(np.int64)
    return (edges[:-1] + edges[1:]) // 2


@selector(version=1, source="no publication: the usual baseline")
def uniform(n_frames: int, k: int) -> Positions:
    """The middles of k equal intervals; scores, nan or not, are not looked at."""
    return uniform_positions(n_frames, k)
