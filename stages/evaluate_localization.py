"""Keyframes and frame scores -> localisation metrics, for questions with known true moments."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from pipeline.engine.joined import typed_rows_of_all
from pipeline.engine.output import Output
from pipeline.engine.row_schema import schema_of
from pipeline.engine.stage import Artifact, Config, RunContext, stage
from pipeline.inference.not_finite import FEATURES, SCORES
from pipeline.metrics.localization_metrics import (
    KeyframeQuality,
    LocalizationRow,
    first_true_rank,
    format_localization,
    keyframe_quality,
    localization_row,
)
from pipeline.reasons import Reason
from pipeline.selection.imported import UNSCORED
from pipeline.selection.keyframes import RANKED_BY
from pipeline.selection.top_k import top_k_positions
from pipeline.text_table import Table, aligned
from stages.list_questions import Questions
from stages.sample_frames import Frames
from stages.score_frames import FrameScores
from stages.select_keyframes import Keyframes


class LocalizationMetrics(Artifact):
    """Precision and recall of the chosen keyframes, and of the Localizer's k best frames for several k."""

    kind = "localization_metrics"
    tables = {"localization": schema_of(1, LocalizationRow)}

    def text(self, table: Table = aligned) -> str:
        """Return the table."""
        rows = self.typed_rows("localization", LocalizationRow)
        if not rows[0].n_questions:
            return "no question with known moments: no localisation to evaluate"
        return format_localization(rows, table)


class EvaluateLocalization(Config):
    """Which numbers of frames to evaluate."""

    ks: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1, 2, 4, 8), strict=False, description="numbers of best-ranked frames to evaluate"
    )


class KeyframePositions(NamedTuple):
    """What of a question's keyframes is judged; see `ChosenFrames`."""

    question_id: str
    video_id: str
    clip_id: str
    reason: Reason
    positions: Sequence[int]


@stage(version=1, output=LocalizationMetrics)
def evaluate_localization(
    cfg: EvaluateLocalization,
    run: RunContext,
    questions: Questions,
    frames: Frames,
    scores: FrameScores | None,
    keyframes: Keyframes,
    *,
    out: Output,
) -> None:
    """Evaluate keyframes, and the ranking of the frames, against the true moments."""
    true, clips = questions.true_moments(), frames.clips_of(questions)
    chosen, config = typed_rows_of_all(keyframes, "keyframes", questions, KeyframePositions), keyframes.record.config
    ranked = scores.by_question(*RANKED_BY[config["rank_by"]]).ranking(config["rank_by"]) if scores is not None else {}

    def known() -> Iterator[KeyframePositions]:
        return (row for row in chosen if row.question_id in true)

    def seconds(row: KeyframePositions) -> np.ndarray:
        return np.asarray(clips[row.video_id, row.clip_id]["seconds"])

    def judged(row: KeyframePositions, k: int | None) -> KeyframeQuality | None:
        if (row.video_id, row.clip_id) not in clips or row.reason.code in (FEATURES, SCORES, UNSCORED):
            return None
        if k is not None and row.question_id not in ranked:
            return None
        positions = row.positions if k is None else top_k_positions(ranked[row.question_id], k)
        return keyframe_quality(positions, seconds(row), true[row.question_id])

    ranks = [
        first_true_rank(ranked[row.question_id], seconds(row), true[row.question_id])
        for row in known()
        if row.question_id in ranked
    ]
    most = max((len(row.positions) for row in known()), default=0)
    rows = [localization_row("keyframes", most, (judged(row, None) for row in known()), ranks)]
    for k in cfg.ks if scores is not None else ():
        rows.append(localization_row("ranking", k, (judged(row, k) for row in known()), ranks))
    out.write_rows("localization", [dataclasses.asdict(row) for row in rows])
