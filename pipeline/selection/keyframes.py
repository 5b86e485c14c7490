"""The score that ranks frames, the record of chosen frames, and their majority vote over options."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

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
    """A question's keyframes in time order; empty if `reason` states a failure."""

    question_id: str
    video_id: str
    clip_id: str
    reason: Reason
    positions: Sequence[int]  # in the clip's sampled frames
    frame_indices: list[int]  # in the video
    rows: list[int]  # in the video's stored frames
    seconds: list[float]
    scores: Sequence[float] = ()  # that ranked the frames; empty if the selector uses none

    def problem(self) -> str:
        """Return why these cannot be the frames of a clip, or the reason for none; empty if they can be."""
        columns: list[Sequence[float]] = [self.positions, self.rows, self.frame_indices, self.seconds]
        lengths = {*map(len, columns), len(self.scores or self.positions)}
        if len(lengths) > 1 or bool(self.positions) == bool(self.reason):
            numbers = [*map(len, columns), len(self.scores)]
            return f"has {numbers} positions, rows, frames, times and scores, and the reason {str(self.reason)!r}"
        for values in columns:
            if [*values] != sorted(values):
                return f"has frames at {values}; expected the order of time"
        return ""

    def are_of(self, clip: Mapping[str, np.ndarray]) -> bool:
        """Whether these are the clip's frames at their positions."""
        columns: dict[str, list[Any]] = {"row": self.rows, "frame_index": self.frame_indices, "seconds": self.seconds}
        is_inside = not self.positions or self.positions[-1] < len(clip["row"])
        return is_inside and all(clip[name][self.positions].tolist() == of for name, of in columns.items())


def ranking_scores(
    logit_yes: ArrayLike, logit_no: ArrayLike, probability_yes: ArrayLike, rank_by: RankBy
) -> NDArray[np.float64]:
    """Return the score that ranks frames, float64 in the inputs' shape; higher is better.

    The official code ranks by "logit_yes"; the paper states "probability_yes", over the whole vocabulary; "yes_versus_no"
    is logit_yes - logit_no, in the order of the softmax over the two words. Raises ValueError for another `rank_by`.
    """
    match rank_by:
        case "logit_yes":
            return np.asarray(logit_yes, np.float64)
        case "probability_yes":
            return np.asarray(probability_yes, np.float64)
        case "yes_versus_no":
            return np.asarray(logit_yes, np.float64) - np.asarray(logit_no, np.float64)
    raise ValueError(f"rank_by is {rank_by!r}; expected logit_yes, probability_yes or yes_versus_no")


def majority_vote(option_logits: ArrayLike) -> tuple[int, NDArray[np.int64]]:
    """Return the option with most votes, and the votes of each option, [n_options].

    `option_logits` [T, n_options]: each frame votes for its highest logit (of equal ones, the lower index), as in the
    paper's voting baseline. The paper leaves ties open: here the larger sum of log-probabilities over all frames wins, then
    the lower index. Raises ValueError without frames or options, or for a logit that is not finite.
    """
    logits = np.asarray(option_logits, np.float64)
    if logits.ndim != 2 or logits.size == 0 or not np.isfinite(logits).all():
        raise ValueError(f"option logits have the shape {logits.shape}; expected finite [T, n_options], neither 0")
    votes = np.bincount(logits.argmax(axis=1), minlength=logits.shape[1])
    # Within a frame logits and log-probabilities differ by one constant, so their sums over frames rank options alike.
    winner = np.where(votes == votes.max(), logits.sum(axis=0), -np.inf).argmax()
    return int(winner), votes
