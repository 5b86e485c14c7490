"""Frame scores of many questions as columns, by the Localizer or any other scorer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.datasets.question import Question
from pipeline.reasons import Reason
from pipeline.selection.keyframes import RankBy, ranking_scores

SCORE_COLUMNS = ("logit_yes", "logit_no", "probability_yes")


@dataclass(frozen=True)
class ScoresByQuestion:
    """Scores of N frames, each [N] float32, or [0] if it was not asked for, those of a question's clip together, in time order.

    Attributes:
        where: the frames of each question whose scores are all finite, by question id.
        failed: the reason why a question has no usable scores, by question id.
    """

    logit_yes: np.ndarray
    logit_no: np.ndarray
    probability_yes: np.ndarray
    where: Mapping[str, slice]
    failed: Mapping[str, Reason]

    def ranking(self, rank_by: RankBy) -> Ranking:
        """Return the values that rank the frames of each question, [T] float64, by question id."""
        return Ranking(self, rank_by)

    def margin(self, id: str) -> np.ndarray:
        """Return logit_yes - logit_no of each frame of a question, [T] float64."""
        where = self.where[id]
        return self.logit_yes[where].astype(np.float64) - self.logit_no[where].astype(np.float64)


class Ranking(Mapping[str, np.ndarray]):
    """The values that rank the frames of each question, [T] float64, by question id; computed on access."""

    def __init__(self, scores: ScoresByQuestion, rank_by: RankBy) -> None:
        self._scores, self._rank_by = scores, rank_by

    def __getitem__(self, id: str) -> np.ndarray:
        scores, where = self._scores, self._scores.where[id]
        return ranking_scores(
            scores.logit_yes[where], scores.logit_no[where], scores.probability_yes[where], self._rank_by
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._scores.where)

    def __len__(self) -> int:
        return len(self._scores.where)


def columns_of_one_score(values: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns of FrameScores for a scorer with one number per frame, [N], which ranks for every `rank_by`."""
    scores = values.astype(np.float32)
    return {
        "logit_yes": scores,
        "logit_no": np.zeros_like(scores),
        "probability_yes": scores,
        "truncated": np.zeros(len(scores), bool),
    }


def columns_of_question(
    question: Question, clip: Mapping[str, np.ndarray], values: np.ndarray, truncated: np.ndarray | bool
) -> dict[str, np.ndarray]:
    """Return the columns of FrameScores for one question's T frames, each [T], by a scorer with one number per frame."""
    scores = columns_of_one_score(values)
    scores["truncated"][:] = truncated
    n_frames = len(clip["row"])
    return {
        "question_id": np.full(n_frames, question.question_id, object),
        "video_id": np.full(n_frames, question.video_id, object),
        "position": np.arange(n_frames),
        "frame_index": clip["frame_index"],
        "seconds": clip["seconds"],
        **scores,
    }


def joined_columns(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Concatenate the columns of one or more questions."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
