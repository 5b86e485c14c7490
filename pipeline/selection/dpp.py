"""Greedy inference of a determinantal point process: the frames with the largest relevance and joint volume.

Chen et al., Fast Greedy MAP Inference for Determinantal Point Process to Improve Recommendation Diversity, NeurIPS 2018,
arXiv 1709.05135 (algorithm 1, with the trade-off of its equation 10).
"""

import numpy as np
from pydantic import Field

from pipeline.selection.scaling import min_max, unit_vectors
from pipeline.selection.selector import Floats, Options, Positions, selector
from pipeline.selection.top_k import top_k_positions

SPANNED = 1e-10  # squared length of a unit vector's residual at which the chosen frames span the frame


class DppOptions(Options):
    """The weights of relevance and diversity."""

    relevance: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="weight of the sum of the scores scaled to 0 to 1; the log-determinant has the remaining weight",
    )


@selector(version=1, source="fast greedy DPP, NeurIPS 2018, arXiv 1709.05135")
def dpp(scores: Floats, vectors: Floats, k: int, options: DppOptions) -> Positions:
    """Return k frames that greedily maximise relevance * sum of scores + (1 - relevance) * log det of their cosines.

    Scores are scaled to 0 to 1 within the question; of equal gains, the earlier frame. Frames in the span of those chosen
    (duplicates; any, once as many are chosen as vectors have dimensions) come last, by descending score. If there are at most
    k frames, all are chosen.
    """
    n = len(scores)
    frames, relevance = unit_vectors(vectors), options.relevance * min_max(scores)
    residual = np.ones(n)  # squared length of each vector's part outside the span of the chosen frames
    cholesky = np.zeros((min(k, n), n))
    chosen: list[int] = []
    for row in range(min(k, n)):
        gains = relevance + (1 - options.relevance) * np.log(np.maximum(residual, SPANNED))
        gains[residual <= SPANNED] = -np.inf
        best = int(np.argmax(gains))
        if gains[best] == -np.inf:
            break
        cosines = frames @ frames[best]
        cholesky[row] = (cosines - cholesky[:row, best] @ cholesky[:row]) / np.sqrt(residual[best])
        residual -= cholesky[row] ** 2
        residual[best] = 0
        chosen.append(best)
    remaining = np.delete(np.arange(n), chosen)
    if len(chosen) < min(k, n):
        chosen += remaining[top_k_positions(scores[remaining], k - len(chosen))].tolist()
    return np.sort(np.array(chosen, np.int64))
