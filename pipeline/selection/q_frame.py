"""Q-Frame: frames drawn without replacement in proportion to the softmax of their scores, by the Gumbel-max trick.

Zhang et al., Q-Frame: Query-aware Frame Selection and Multi-Resolution Adaptation for Video-LLMs, ICCV 2025,
arXiv 2506.22139. The choice of frames alone: all keep one resolution.
"""

import numpy as np
from pydantic import Field

from pipeline.selection.selector import Floats, Positions, SeededOptions, selector
from pipeline.selection.top_k import top_k_positions


class QFrameOptions(SeededOptions):
    """How far chance decides."""

    temperature: float = Field(
        0.8,
        gt=0,
        description="by which scores are divided, as they are: low for the highest scores, high for any frame",
    )


@selector(version=1, source="Q-Frame, ICCV 2025, arXiv 2506.22139")
def q_frame(scores: Floats, k: int, rng: np.random.Generator, options: QFrameOptions) -> Positions:
    """The k highest of score / temperature + Gumbel noise; all if there are at most k candidates.

    The softmax's denominator is one for all frames and changes no order. Constant scores: a draw of equal chances.
    """
    noise = rng.gumbel(size=len(scores))
    with np.errstate(over="ignore"):  # of scores that far below the highest there is no telling apart
        logits = np.clip((scores - scores.max(initial=-np.inf)) / options.temperature, -1e300, 0)
    return top_k_positions(logits + noise, k)
