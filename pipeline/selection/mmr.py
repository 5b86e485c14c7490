"""Maximal marginal relevance: one frame after the other, each relevant and unlike those already chosen.

Carbonell and Goldstein, The Use of MMR, Diversity-Based Reranking for Reordering Documents and Producing Summaries, SIGIR 1998.
"""

import numpy as np
from pydantic import Field

from pipeline.selection.scaling import min_max, unit_vectors
from pipeline.selection.selector import Floats, Options, Positions, selector


class MmrOptions(Options):
    """How relevance and novelty are weighed."""

    relevance: float = Field(
        0.5, ge=0, le=1, description="weight of the score from 0 to 1; the rest is that of novelty"
    )


@selector(version=1, source="MMR, SIGIR 1998")
def mmr(scores: Floats, vectors: Floats, k: int, options: MmrOptions) -> Positions:
    """k frames, each the highest of relevance * score - (1 - relevance) * its highest cosine with a frame already chosen.

    Scores from 0 to 1 within the question. The first frame is the highest score's; of equal ones the earlier is taken, here
    as later. All frames if there are at most k. Constant scores: novelty alone decides.
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
