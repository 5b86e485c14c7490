"""The scores of the frames of many questions, as columns: the Localizer's, or any other scorer's."""

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
        where: where the frames of a question stand, by its id, where all its scores are finite.
        failed: why a question has no scores to choose by, by its id.
    """

    logit_yes: np.ndarray
    logit_no: np.ndarray
    probability_yes: np.ndarray
    where: Mapping[str, slice]
    failed: Mapping[str, Reason]

    def ranking(self, rank_by: RankBy) -> Ranking:
        """Return by which values the frames of each question are ranked, [T] float64, by the question's id."""
        return Ranking(self, rank_by)

    def margin(self, id: str) -> np.ndarray:
        """Return by how much the logit of yes exceeds that of no in each frame of a question, [T] float64."""
        where = self.where[id]
        return self.logit_yes[where].astype(np.float64) - self.logit_no[where].astype(np.float64)


class Ranking(Mapping[str, np.ndarray]):
    """By which values the frames of each question are ranked, [T] float64, by its id; computed when they are asked for."""

    def __init__(self, scores: ScoresByQuestion, rank_by: RankBy) -> None:
        self._scores, self._rank_by = scores, rank_by

    def __getitem__(self, id: str) -> np.ndarray:
        where = self._scores.where[id]
        of = self._scores
        return ranking_scores(of.logit_yes[where], of.logit_no[where], of.probability_yes[where], self._rank_by)

    def __iter__(self) -> Iterator[str]:
        return iter(self._scores.where)

    def __len__(self) -> int:
        return len(self._scores.where)


def columns_of_one_score(values: np.ndarray) -> dict[str, np.ndarray]:
    """Return FrameScores' columns of a scorer that gives one number a frame, [N]: frames rank by it whatever `rank_by` is."""
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
    """Return FrameScores' columns of one question's clip of T frames, each [T], by a scorer that gives one number a frame."""
    scores = columns_of_one_score(values)
    scores["truncated"][:] = truncated
    n_frames = len(clip["row"])
    of_question = {"question_id": question.question_id, "video_id": question.video_id}
    rows = {name: np.full(n_frames, value, object) for name, value in of_question.items()}
    places = {"position": np.arange(n_frames), "frame_index": clip["frame_index"], "seconds": clip["seconds"]}
    return rows | places | scores


def joined_columns(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the columns of several questions, at least one, as one."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
