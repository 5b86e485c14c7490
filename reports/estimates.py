"""Numbers with their intervals: of one run, over seeds, and the paired difference of two runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import NamedTuple

from reports.compare import compare
from stages.evaluate import Metrics


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval; None where nothing supports one."""

    value: float
    low: float | None = None
    high: float | None = None


class Tally(NamedTuple):
    """Of paired differences, one a seed: how many are above 0, and how many surely."""

    n_above: int
    n_surely_above: int


def tally(differences: Sequence[Estimate]) -> Tally:
    """Count differences; sure is one whose whole 95 % interval lies above 0."""
    return Tally(sum(each.value > 0 for each in differences), sum((each.low or 0) > 0 for each in differences))


def span(differences: Sequence[Estimate]) -> str:
    """Return the mean of differences in points and, of several, the smallest and the largest."""
    values = [each.value for each in differences]
    extremes = f" ({min(values):+.1f} to {max(values):+.1f})" if len(values) > 1 else ""
    return f"{mean(values):+.1f} points{extremes}"


def over_seeds(estimates: Sequence[Estimate]) -> Estimate | None:
    """Return the mean, with its 95 % interval by Student's t over the seeds; of one seed its own; None of none."""
    if len(estimates) < 2:
        return estimates[0] if estimates else None
    from scipy.stats import t  # takes most of a second to import

    values = [estimate.value for estimate in estimates]
    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return Estimate(mean(values), mean(values) - half, mean(values) + half)


def difference(of: Estimate, published: float) -> Estimate:
    """Return how far a number lies above a published one, which is taken as exact."""
    low, high = (None if bound is None else bound - published for bound in (of.low, of.high))
    return Estimate(of.value - published, low, high)


def paired_difference(a: Metrics, b: Metrics) -> Estimate:
    """Return the accuracy of `b` minus that of `a` in points, over the same questions; its interval resamples videos."""
    row = compare(a.store, a.record.id, b.record.id).headline
    return Estimate(row.difference_points, row.low_points, row.high_points)
