"""Maximal marginal relevance: frames chosen one by one, each relevant and dissimilar to those already chosen.

Carbonell and Goldstein, The Use of MMR, Diversity-Based Reranking for Reordering Documents and Producing Summaries, SIGIR 1998.
"""

import numpy as np
from pydantic import Field

from pipeline.selection.scaling import min_max, unit_vectors
from pipeline.selection.selector import Floats, Options, Positions, selector


class MmrOptions(Options):
    """The weights of relevance and novelty."""

    relevance: float = Field(
        0.5, ge=0, le=1, description="weight of the score scaled to 0 to 1; novelty has the remaining weight"
    )


@selector(version=1, source="MMR, SIGIR 1998")
def mmr(scores: Floats, vectors: Floats, k: int, options: MmrOptions) -> Positions:
    """Return k frames, each with the highest relevance * score - (1 - relevance) * highest cosine with a chosen frame.

    Scores are scaled to 0 to 1 within the question. The first frame has the highest score; of equal values, the earlier frame
    is taken. If there are at most k frames, all are chosen. With constant scores novelty alone decides.
    """
    frames, gains = unit_vectors(vectors), options.relevance * min_max(scores)
    nearest = np.full(len(gains), -np.inf)
    chosen: list[int] = []
    for _ in range(min(k, len(gains))):
        best = int(np.argmax(gains - (1 - options.relevance) * nearest if chosen else scores))
        chosen.append(best)
        gains[best] = -np.inf
        np.maximum(nearest, frames @ frames[best], out=nearest)
    return np.sort(np.array(chosen, np.int64))
