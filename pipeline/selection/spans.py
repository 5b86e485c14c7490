"""Frames evenly spread inside the best span: what the paper's table 6 does with spans that Moment-DETR predicts.

The frames of a span have one score, the span's (`sevila moments scores` writes them so).
"""

import numpy as np

from pipeline.selection.selector import Floats, Positions, selector
from pipeline.selection.uniform import uniform_positions


@selector(version=1, source="Moment-DETR, NeurIPS 2021, arXiv 2107.09609, as SeViLA's table 6 uses it")
def spans(scores: Floats, k: int) -> Positions:
    """k frames evenly spread over those with the highest score; where they are fewer, all of them, then the next score's."""
    chosen = np.empty(0, np.int64)
    for score in np.unique(scores)[::-1][:k]:
        level = np.flatnonzero(scores == score)
        chosen = np.r_[chosen, level[uniform_positions(len(level), k - len(chosen))]]
        if len(chosen) == k:
            break
    return np.sort(chosen)
