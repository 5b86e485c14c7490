"""Frames evenly spread in the best span: the use of Moment-DETR's spans in the paper's table 6.

All frames of a span have its score, as `sevila moments scores` writes them.
"""

import numpy as np

from pipeline.selection.selector import Floats, Positions, selector
from pipeline.selection.uniform import uniform_positions


@selector(version=1, source="Moment-DETR, NeurIPS 2021, arXiv 2107.09609, as SeViLA's table 6 uses it")
def spans(scores: Floats, k: int) -> Positions:
    """Return k frames evenly spread over those with the highest score; if they are fewer, all, then from the next score."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])) + 1, len(order))  # of the frames that share a score
    n_complete = int(ends[ends <= k].max(initial=0))
    chosen = order[:n_complete]
    if n_complete < min(k, len(order)):
        level = order[n_complete : ends[ends > n_complete][0]]
        chosen = np.append(chosen, level[uniform_positions(len(level), k - n_complete)])
    return np.sort(chosen)
