"""Q-Frame: frames drawn without replacement in proportion to the softmax of their scores, by the Gumbel-max trick.

Zhang et al., Q-Frame: Query-aware Frame Selection and Multi-Resolution Adaptation for Video-LLMs, ICCV 2025,
arXiv 2506.22139. Frame selection only, at a single resolution.
"""

import numpy as np
from pydantic import Field

from pipeline.selection.selector import Floats, Positions, SeededOptions, selector
from pipeline.selection.top_k import top_k_positions


class QFrameOptions(SeededOptions):
    """The randomness of the draw."""

    temperature: float = Field(
        0.8,
        gt=0,
        description="divisor of the unscaled scores: low values favour the highest scores, high values draw uniformly",
    )


@selector(version=1, source="Q-Frame, ICCV 2025, arXiv 2506.22139")
def q_frame(scores: Floats, k: int, rng: np.random.Generator, options: QFrameOptions) -> Positions:
    """Return the k highest of score / temperature + Gumbel noise; all if there are at most k candidates.

    The softmax's denominator is the same for all frames and does not change the order. Constant scores: a uniform draw.
    """
    noise = rng.gumbel(size=len(scores))
    with np.errstate(over="ignore"):  # scores so far below the highest are never drawn
        logits = np.clip((scores - scores.max(initial=-np.inf)) / options.temperature, -1e300, 0)
    return top_k_positions(logits + noise, k)
