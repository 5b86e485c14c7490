"""A determinantal point process, greedily: the frames whose relevance and joint volume are largest.

Chen et al., Fast Greedy MAP Inference for Determinantal Point Process to Improve Recommendation Diversity, NeurIPS 2018,
arXiv 1709.05135 (algorithm 1, with the trade-off of its equation 10).
"""

import numpy as np
from pydantic import Field

from pipeline.selection.scaling import min_max, unit_vectors
from pipeline.selection.selector import Floats, Options, Positions, selector
from pipeline.selection.top_k import top_k_positions

COPY = 1e-10  # of a vector's squared length: what is left of a frame that the chosen ones span


class DppOptions(Options):
    """How relevance and diversity are weighed."""

    relevance: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="weight of the sum of the scores from 0 to 1; the rest is that of the log-determinant",
    )


@selector(version=1, source="fast greedy DPP, NeurIPS 2018, arXiv 1709.05135")
def dpp(scores: Floats, vectors: Floats, k: int, options: DppOptions) -> Positions:
    """k frames that greedily raise relevance * sum of scores + (1 - relevance) * log det of their cosines most.

    Scores from 0 to 1 within the question; of equal gains the earlier frame. Frames that those chosen span (copies; any, once
    as many are chosen as vectors have dimensions) come last, the highest scores first. All frames if there are at most k.
    """
    n = len(scores)
    frames, relevance = unit_vectors(vectors), options.relevance * min_max(scores)
    left = np.ones(n)  # squared length of what the chosen frames do not span
    spanned = np.zeros((min(k, n), n))  # rows of the Cholesky factor
    chosen: list[int] = []
    for row in range(min(k, n)):
        gains = relevance + (1 - options.relevance) * np.log(np.maximum(left, COPY))
        gains[left <= COPY] = -np.inf
        best = int(np.argmax(gains))
        if gains[best] == -np.inf:
            break
        cosines = frames @ frames[best]
        spanned[row] = (cosines - spanned[:row, best] @ spanned[:row]) / np.sqrt(left[best])
        left -= spanned[row] ** 2
        left[best] = 0
        chosen.append(best)
    rest = np.delete(np.arange(n), chosen)
    if len(chosen) < min(k, n):
        chosen += rest[top_k_positions(scores[rest], k - len(chosen))].tolist()
    return np.sort(np.array(chosen, np.int64))
