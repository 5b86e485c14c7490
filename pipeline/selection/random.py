"""A seeded draw of frames, whatever their scores: the other baseline."""

import numpy as np

from pipeline.selection.selector import Positions, SeededOptions, selector


def random_positions(n: int, k: int, rng: np.random.Generator) -> Positions:
    """Ascending positions of `k` of `n` sampled frames, drawn without replacement; all if k >= n.

    Raises ValueError for n < 0 or k < 1.
    """
    if n < 0 or k < 1:
        raise ValueError(f"{k} of {n} frames: at least 1 of at least 0 was wanted")
    return np.sort(rng.permutation(n)[:k]).astype(np.int64)


@selector(version=1, source="no publication: the usual baseline")
def random(n_frames: int, k: int, rng: np.random.Generator, options: SeededOptions) -> Positions:
    """k frames drawn without replacement; scores, nan or not, are not looked at."""
    return random_positions(n_frames, k, rng)
