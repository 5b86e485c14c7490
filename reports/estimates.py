"""Numbers with intervals: of one run, of a mean over seeds, and of the paired difference of two runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import NamedTuple

from reports.compare import compare
from stages.evaluate import Metrics


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval; the bounds are None if there is no interval."""

    value: float
    low: float | None = None
    high: float | None = None


class Tally(NamedTuple):
    """Counts of paired differences, one per seed: those above 0, and those whose 95 % interval lies above 0."""

    n_above: int
    n_significant: int


def tally(differences: Sequence[Estimate]) -> Tally:
    """Count the differences above 0."""
    n_above = sum(difference.value > 0 for difference in differences)
    return Tally(n_above, sum((difference.low or 0) > 0 for difference in differences))


def span(differences: Sequence[Estimate]) -> str:
    """Return the text of the mean of differences in points and, for several, of the smallest and the largest."""
    values = [difference.value for difference in differences]
    extremes = f" ({min(values):+.1f} to {max(values):+.1f})" if len(values) > 1 else ""
    return f"{mean(values):+.1f} points{extremes}"


def over_seeds(estimates: Sequence[Estimate]) -> Estimate | None:
    """Return the mean with its 95 % interval by Student's t over the seeds; a single estimate as it is; None for none."""
    if len(estimates) < 2:
        return estimates[0] if estimates else None
    from scipy.stats import t  # importing takes most of a second

    values = [estimate.value for estimate in estimates]
    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return Estimate(mean(values), mean(values) - half, mean(values) + half)


def difference(measured: Estimate, published: float) -> Estimate:
    """Return measured minus published; the published number is treated as exact."""
    low, high = (None if bound is None else bound - published for bound in (measured.low, measured.high))
    return Estimate(measured.value - published, low, high)


def paired_difference(a: Metrics, b: Metrics) -> Estimate:
    """Return the accuracy of `b` minus that of `a` in points, over the same questions; the interval resamples videos."""
    row = compare(a.store, a.record.id, b.record.id).headline
    return Estimate(row.difference_points, row.low_points, row.high_points)
