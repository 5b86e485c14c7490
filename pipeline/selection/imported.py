"""Matching of imported scores, of any frames, to the sampled frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.reasons import Reason

UNSCORED = "no_scores"  # failure code of a question without scores for its sampled frames


def scores_of_frames(
    sampled: NDArray[np.int64], scored: NDArray[np.int64], values: NDArray[np.float64], max_frames: float
) -> tuple[Reason, NDArray[np.float64]]:
    """Return, for each sampled frame, the score of the nearest scored frame, [T]; or the reason why a frame has none.

    Args:
        sampled: [T] frame indices, ascending.
        scored: [S] frame indices, ascending.
        values: [S] scores of these.
        max_frames: the largest allowed distance from a sampled frame to a scored one; of two as near, the earlier counts.
    """
    if not len(scored):
        return Reason(f"{UNSCORED}: the scores hold no frame of it"), np.empty(0)
    conflicts = np.flatnonzero((np.diff(scored) == 0) & (np.diff(values) != 0))
    if len(conflicts):
        return Reason(f"{UNSCORED}: two scores lie on frame {scored[conflicts[0]]}"), np.empty(0)
    after = np.searchsorted(scored, sampled).clip(1, max(len(scored) - 1, 1))
    after = np.minimum(after, len(scored) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(sampled - scored[before] <= scored[after] - sampled, before, after)
    distance = np.abs(scored[nearest] - sampled)
    unscored = np.flatnonzero(distance > max_frames)
    if len(unscored):
        first = unscored[0]
        return Reason(
            f"{UNSCORED}: {len(unscored)} of {len(sampled)} sampled frames have no score, such as frame {sampled[first]}; the "
            f"nearest of {len(scored)} that have is frame {scored[nearest[first]]}"
        ), np.empty(0)
    return Reason(), values[nearest]
