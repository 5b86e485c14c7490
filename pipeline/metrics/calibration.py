"""Is an answer given with 80 % right in 80 of 100 cases? Probabilities of options, and how often they hold."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

N_BINS = 10


class CalibrationBin(NamedTuple):
    """The answers whose probability lies in [low, high), of the last bin high too; means are nan where there is none."""

    low: float
    high: float
    n_answers: int
    mean_probability: float
    share_right: float


def option_probabilities(option_logits: ArrayLike) -> NDArray[np.float64]:
    """The softmax over a question's options, [n_options]; logits and log-probabilities are the same to it."""
    logits = np.asarray(option_logits, np.float64)
    weights = np.exp(logits - logits.max(initial=-np.inf))
    return weights / weights.sum()


def calibration_bins(probabilities: ArrayLike, right: ArrayLike) -> list[CalibrationBin]:
    """The answers by their probability, in bins of equal width; `probabilities` and `right` are [n_answers]."""
    chances, is_right = np.asarray(probabilities, np.float64), np.asarray(right, bool)
    bin_of = np.clip((chances * N_BINS).astype(int), 0, N_BINS - 1)
    bins = []
    for number in range(N_BINS):
        members = bin_of == number
        n = int(members.sum())
        means = (float(chances[members].mean()), float(is_right[members].mean())) if n else (float("nan"), float("nan"))
        bins.append(CalibrationBin(number / N_BINS, (number + 1) / N_BINS, n, *means))
    return bins


def expected_calibration_error(bins: Sequence[CalibrationBin]) -> float | None:
    """The mean distance between probability and share of right answers, weighted by answers; None without any."""
    n_answers = sum(each.n_answers for each in bins)
    distances = (each.n_answers * abs(each.mean_probability - each.share_right) for each in bins if each.n_answers)
    return sum(distances) / n_answers if n_answers else None
