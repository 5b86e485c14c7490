"""Values that are not finite: what they belong to is a failed row with one of these codes; where all are, it is an error."""

from __future__ import annotations

from pipeline.reasons import Reason

FEATURES, SCORES, ANSWERS = "not_finite_features", "not_finite_scores", "not_finite_answers"
LOSS = "not_finite_loss"  # of a question to train on
# Of a question that was not asked about a video that could be read: the artifact with the features says what happened.
WITHOUT_FEATURES = Reason(f"{FEATURES}: some frame of the video has no finite features")
BROKEN = "weights or features are broken, or the precision is too small"  # where all are


def not_finite_figure(n_rows: float) -> dict[str, float]:
    """Return how many held-out rows a validation leaves out, for their logits are not finite; nothing if none are."""
    return {"not_finite": n_rows} if n_rows else {}
