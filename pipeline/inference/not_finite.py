"""Handling of values that are not finite: their rows fail with one of these codes; if all rows do, it is an error."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.reasons import Reason
from pipeline.selection.frame_scores import SCORE_COLUMNS

FEATURES, SCORES, ANSWERS = "not_finite_features", "not_finite_scores", "not_finite_answers"
LOSS = "not_finite_loss"  # of a training question
# Of a question about a readable video; the artifact of the features has the details.
WITHOUT_FEATURES = Reason(f"{FEATURES}: some frame of the video has no finite features")
BROKEN = "weights or features are broken, or a precision other than float32 is too small"  # if all rows fail


def not_finite_figure(n_rows: float) -> dict[str, float]:
    """Return the number of held-out rows that a validation excludes because of their logits; empty if there are none."""
    return {"not_finite": n_rows} if n_rows else {}


def without_finite_scores(table: Mapping[str, np.ndarray]) -> dict[str, Reason]:
    """Return the reason for each question, by id, that has a frame without finite scores in these columns."""
    values = np.stack([table[name] for name in SCORE_COLUMNS], axis=1)
    reasons: dict[str, Reason] = {}
    for row in np.flatnonzero(~np.isfinite(values).all(axis=1)):
        reason = f"{SCORES}: frame {table['frame_index'][row]}: the scorer gave {values[row].tolist()}"
        reasons.setdefault(table["question_id"][row], Reason(reason))
    return reasons
