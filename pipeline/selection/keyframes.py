"""Before and after a selector: by which score frames are ranked, the frames that were chosen, and what they vote for."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.reasons import Reason

RankBy = Literal["logit_yes", "probability_yes", "yes_versus_no"]
RANKED_BY: dict[RankBy, tuple[str, ...]] = {  # the columns of FrameScores that are looked at
    "logit_yes": ("logit_yes",),
    "probability_yes": ("probability_yes",),
    "yes_versus_no": ("logit_yes", "logit_no"),
}


class ChosenFrames(NamedTuple):
    """A question's keyframes, in time order; none where there is a reason."""

    question_id: str
    video_id: str
    clip_id: str
    reason: Reason
    positions: Sequence[int]  # in the clip's sampled frames
    frame_indices: list[int]  # in the video
    rows: list[int]  # of the video's stored frames
    seconds: list[float]
    scores: Sequence[float] = ()  # what the frames were ranked by; empty where no score was looked at


def ranking_scores(
    logit_yes: ArrayLike, logit_no: ArrayLike, probability_yes: ArrayLike, rank_by: RankBy
) -> NDArray[np.float64]:
    """The score by which frames are ranked, float64 of the inputs' shape; higher is better.

    "logit_yes" is what the official code ranks by; "probability_yes", over the whole vocabulary, is what the paper
    writes; "yes_versus_no" is logit_yes - logit_no, which ranks as the softmax over the two words does.
    Raises ValueError for another `rank_by`.
    """
    match rank_by:
        case "logit_yes":
            return np.asarray(logit_yes, np.float64)
        case "probability_yes":
            return np.asarray(probability_yes, np.float64)
        case "yes_versus_no":
            return np.asarray(logit_yes, np.float64) - np.asarray(logit_no, np.float64)
    raise ValueError(f"rank_by is {rank_by!r}; logit_yes, probability_yes or yes_versus_no was wanted")


def majority_vote(option_logits: ArrayLike) -> tuple[int, NDArray[np.int64]]:
    """The option most frames choose, and the number of frames that choose each, [n_options].

    `option_logits` [T, n_options]: each frame votes for its highest logit (of equal ones the lower index), as in the
    paper's voting baseline. Ties are ours to settle: of options with equally many votes the one with the larger sum of
    log-probabilities over all frames wins, then the lower index. Raises ValueError without frames or options, or for a
    logit that is not finite.
    """
    logits = np.asarray(option_logits, np.float64)
    if logits.ndim != 2 or logits.size == 0 or not np.isfinite(logits).all():
        raise ValueError(f"option logits have the shape {logits.shape}; finite [T, n_options], neither 0, was wanted")
    votes = np.bincount(logits.argmax(axis=1), minlength=logits.shape[1])
    # Within a frame logits and log-probabilities differ by one constant, so their sums over frames rank options alike.
    winner = np.where(votes == votes.max(), logits.sum(axis=0), -np.inf).argmax()
    return int(winner), votes
