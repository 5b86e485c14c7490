"""A seeded random draw of frames that ignores scores: a baseline."""

import numpy as np

from pipeline.selection.selector import Positions, SeededOptions, selector


@selector(version=1, source="no publication: the usual baseline")
def random(n_frames: int, k: int, rng: np.random.Generator, options: SeededOptions) -> Positions:
    """Return k frames drawn without replacement; scores, which may be nan, are not used."""
    return np.sort(rng.permutation(n_frames)[:k])
