"""Scores made elsewhere, of whatever frames, for the frames that were sampled here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.reasons import Reason

UNSCORED = "no_scores"  # code of a question that nobody has scored, or not in the frames that were sampled


def scores_of_frames(
    sampled: NDArray[np.int64], scored: NDArray[np.int64], values: NDArray[np.float64], most_frames: float
) -> tuple[Reason, NDArray[np.float64]]:
    """Return the score of each sampled frame, [T], of the nearest scored one; or why there is none of some.

    Args:
        sampled: [T] frame indices, ascending.
        scored: [S] frame indices, ascending, and their `values`.
        most_frames: frames from a sampled frame to the scored one at most; of two as near the earlier one counts.
    """
    if not len(scored):
        return Reason(f"{UNSCORED}: the scores hold no frame of it"), np.empty(0)
    twice = np.flatnonzero((np.diff(scored) == 0) & (np.diff(values) != 0))
    if len(twice):
        return Reason(f"{UNSCORED}: two scores lie on frame {scored[twice[0]]}"), np.empty(0)
    after = np.searchsorted(scored, sampled).clip(1, max(len(scored) - 1, 1))
    after = np.minimum(after, len(scored) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(sampled - scored[before] <= scored[after] - sampled, before, after)
    distance = np.abs(scored[nearest] - sampled)
    without = np.flatnonzero(distance > most_frames)
    if len(without):
        first = without[0]
        return Reason(
            f"{UNSCORED}: {len(without)} of {len(sampled)} sampled frames have no score, such as frame {sampled[first]}; the "
            f"nearest of {len(scored)} that have is frame {scored[nearest[first]]}"
        ), np.empty(0)
    return Reason(), values[nearest]
