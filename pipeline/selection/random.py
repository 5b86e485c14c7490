"""A seeded draw of frames, whatever their scores: the other baseline."""

import numpy as np

from pipeline.selection.selector import Positions, SeededOptions, selector


@selector(version=1, source="no publication: the usual baseline")
def random(n_frames: int, k: int, rng: np.random.Generator, options: SeededOptions) -> Positions:
    """k frames drawn without replacement; scores, nan or not, are not looked at."""
    return np.sort(rng.permutation(n_frames)[:k])
