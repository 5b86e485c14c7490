"""From scores to decisions: which sampled frames of a question are its keyframes, and what several frames vote for.

T sampled frames of one question, in time order; positions index them, 0 to T - 1, and always come back ascending,
because keyframes are shown to the Answerer in time order.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.metrics.localization_metrics import inside

RankBy = Literal["logit_yes", "probability_yes", "yes_versus_no"]


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


def top_k_positions(scores: ArrayLike, k: int) -> NDArray[np.int64]:
    """Ascending positions of the `k` highest of `scores` [T]; all if k >= T; of equal scores the earlier frame's.

    Raises ValueError for a nan among the scores, for scores that are not [T], and for k < 1.
    """
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or np.isnan(values).any():
        raise ValueError(
            f"scores have the shape {values.shape} and {np.isnan(values).sum()} nan; [T] without nan wanted"
        )
    _check_counts(len(values), k)
    return np.sort(np.argsort(-values, kind="stable")[:k])


def uniform_positions(n: int, k: int) -> NDArray[np.int64]:
    """Ascending midpoints of `k` equal intervals over `n` sampled frames; all if k >= n.

    The same arithmetic as uniform sampling from the video: interval edges truncated to integers, midpoints rounded
    down. Raises ValueError for n < 0 or k < 1.
    """
    _check_counts(n, k)
    edges = np.linspace(0, n, min(n, k) + 1).astype(np.int64)
    return (edges[:-1] + edges[1:]) // 2


def random_positions(n: int, k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Ascending positions of `k` of `n` sampled frames, drawn without replacement; all if k >= n.

    Raises ValueError for n < 0 or k < 1.
    """
    _check_counts(n, k)
    return np.sort(rng.permutation(n)[:k]).astype(np.int64)


def oracle_positions(seconds: ArrayLike, moments: ArrayLike, k: int) -> NDArray[np.int64]:
    """Ascending positions of `k` frames evenly spread over those of the frames at `seconds` [T] that lie in a true moment.

    `moments` [G, 2] in seconds, ends included; all such frames if there are at most k, none if no frame lies in one.
    Raises ValueError for k < 1.
    """
    true = np.flatnonzero(inside(seconds, moments).any(axis=1))
    return true[uniform_positions(len(true), k)]


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


def _check_counts(n: int, k: int) -> None:
    if n < 0 or k < 1:
        raise ValueError(f"{k} of {n} frames: at least 1 of at least 0 was wanted")
