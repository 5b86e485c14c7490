"""Evenly spread frames, independent of scores: the usual baseline."""

import numpy as np

from pipeline.selection.selector import Positions, selector


def uniform_positions(n: int, k: int) -> Positions:
    """Return the ascending midpoints of `k` equal intervals over `n` sampled frames; all if k >= n.

    As in uniform sampling from the video, interval edges are truncated to integers and midpoints rounded down.
    """
    edges = np.linspace(0, n, min(n, k) + 1).astype(np.int64)
    return (edges[:-1] + edges[1:]) // 2


@selector(version=1, source="no publication: the usual baseline")
def uniform(n_frames: int, k: int) -> Positions:
    """Return the midpoints of k equal intervals; scores, which may be nan, are not used."""
    return uniform_positions(n_frames, k)
