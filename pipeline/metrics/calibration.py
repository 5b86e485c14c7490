"""Calibration: whether answers with a probability of 80 % are correct in 80 of 100 cases."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

N_BINS = 10


class CalibrationBin(NamedTuple):
    """The answers with a probability in [low, high), the last bin including high; means are nan in an empty bin."""

    low: float
    high: float
    n_answers: int
    mean_probability: float
    share_right: float


def option_probabilities(option_logits: ArrayLike) -> NDArray[np.float64]:
    """Return the softmax over a question's options, [n_options], from logits or log-probabilities."""
    logits = np.asarray(option_logits, np.float64)
    weights = np.exp(logits - logits.max(initial=-np.inf))
    return weights / weights.sum()


def calibration_bins(probabilities: ArrayLike, right: ArrayLike) -> list[CalibrationBin]:
    """Bin answers by probability, in bins of equal width; `probabilities` and `right` are [n_answers]."""
    values, is_right = np.asarray(probabilities, np.float64), np.asarray(right, bool)
    bin_indices = np.clip((values * N_BINS).astype(int), 0, N_BINS - 1)
    bins = []
    for index in range(N_BINS):
        members = bin_indices == index
        n = int(members.sum())
        means = (float(values[members].mean()), float(is_right[members].mean())) if n else (float("nan"), float("nan"))
        bins.append(CalibrationBin(index / N_BINS, (index + 1) / N_BINS, n, *means))
    return bins


def expected_calibration_error(bins: Sequence[CalibrationBin]) -> float | None:
    """Return the mean difference of probability and share of correct answers, weighted by answers; None without answers."""
    n_answers = sum(bin.n_answers for bin in bins)
    distances = (bin.n_answers * abs(bin.mean_probability - bin.share_right) for bin in bins if bin.n_answers)
    return sum(distances) / n_answers if n_answers else None
