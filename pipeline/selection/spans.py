"""Frames evenly spread inside the best span: what the paper's table 6 does with spans that Moment-DETR predicts.

The frames of a span have one score, the span's (`sevila moments scores` writes them so).
"""

import numpy as np

from pipeline.selection.selector import Floats, Positions, selector
from pipeline.selection.uniform import uniform_positions


@selector(version=1, source="Moment-DETR, NeurIPS 2021, arXiv 2107.09609, as SeViLA's table 6 uses it")
def spans(scores: Floats, k: int) -> Positions:
    """k frames evenly spread over those with the highest score; where they are fewer, all of them, then the next score's."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])) + 1, len(order))  # of the frames that share a score
    n_whole = int(ends[ends <= k].max(initial=0))
    chosen = order[:n_whole]
    if n_whole < min(k, len(order)):
        level = order[n_whole : ends[ends > n_whole][0]]
        chosen = np.append(chosen, level[uniform_positions(len(level), k - n_whole)])
    return np.sort(chosen)
