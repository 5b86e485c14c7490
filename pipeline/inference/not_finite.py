"""Values that are not finite: what they belong to is a failed row with one of these codes; where all are, it is an error."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.reasons import Reason
from pipeline.selection.frame_scores import SCORE_COLUMNS

FEATURES, SCORES, ANSWERS = "not_finite_features", "not_finite_scores", "not_finite_answers"
LOSS = "not_finite_loss"  # of a question to train on
# Of a question that was not asked about a video that could be read: the artifact with the features says what happened.
WITHOUT_FEATURES = Reason(f"{FEATURES}: some frame of the video has no finite features")
BROKEN = "weights or features are broken, or a precision other than float32 is too small"  # where all are


def not_finite_figure(n_rows: float) -> dict[str, float]:
    """Return how many held-out rows a validation leaves out, for their logits are not finite; nothing if none are."""
    return {"not_finite": n_rows} if n_rows else {}


def without_finite_scores(table: Mapping[str, np.ndarray]) -> dict[str, Reason]:
    """Return why each question of these columns failed that has a frame without finite scores, by its id."""
    values = np.stack([table[name] for name in SCORE_COLUMNS], axis=1)
    reasons: dict[str, Reason] = {}
    for row in np.flatnonzero(~np.isfinite(values).all(axis=1)):
        reason = f"{SCORES}: frame {table['frame_index'][row]}: the scorer gave {values[row].tolist()}"
        reasons.setdefault(table["question_id"][row], Reason(reason))
    return reasons
