"""Confidence intervals of percentages: the percentile bootstrap over videos or questions.

Questions about one video share its frames, and fail together if it cannot be read, so they are not independent samples.
Resampling whole videos (the cluster bootstrap: Field and Welsh 2007, J. R. Statist. Soc. B 69) accounts for that dependence;
resampling questions ignores it and gives an interval as narrow as if every question had its own video.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
CHUNK_DRAWS = 1 << 22  # clusters drawn at a time, about 100 MB


@dataclass(frozen=True)
class Resampling:
    """How to resample: videos or questions, the number of resamples, and the seed."""

    by: Literal["video", "question"] = "video"
    resamples: int = 10_000
    seed: int = 0

    def clusters(self, video_ids: ArrayLike) -> NDArray:
        """Return the cluster of each question, [n_questions]: the id of its video, or a number of its own."""
        ids = np.asarray(video_ids, dtype=str)
        return ids if self.by == "video" else np.arange(len(ids))


BY_VIDEO = Resampling()


def resampled_ratios(
    numerators: ArrayLike, denominators: ArrayLike, clusters: ArrayLike, resamples: int, seed: int
) -> NDArray[np.float64]:
    """Return ratios of sums over clusters drawn with replacement, `[resamples, n_ratios]`.

    `numerators` and `denominators` are whole numbers `[n_items, n_ratios]`, `clusters` labels `[n_items]`. All ratios use the
    same draws, so that the ratios of a row can be combined (to a mean of groups, for example). A ratio is nan where the drawn
    denominator is 0, and in its whole column if fewer than two clusters support it: one cluster gives no estimate of
    variation. The result does not depend on the order of the items.
    """
    _, cluster_of_item = np.unique(np.asarray(clusters), return_inverse=True)
    n_clusters = int(cluster_of_item.max(initial=-1)) + 1
    above, below = (_sums(values, cluster_of_item, n_clusters) for values in (numerators, denominators))
    ratios = np.full((resamples, below.shape[1]), np.nan)
    if n_clusters == 0:
        return ratios
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK_DRAWS // n_clusters)
    for start in range(0, resamples, step):
        n = min(step, resamples - start)
        draws = rng.integers(n_clusters, size=(n, n_clusters)) + np.arange(n)[:, None] * n_clusters
        counts = np.bincount(draws.ravel(), minlength=n * n_clusters).reshape(n, n_clusters).astype(np.float64)
        # Whole numbers far below 2**53: the sums are exact in any order of summation.
        totals = counts @ below
        np.divide(counts @ above, totals, out=ratios[start : start + n], where=totals > 0)
    ratios[:, (below > 0).sum(axis=0) < 2] = np.nan
    return ratios


def percentile_interval(samples: ArrayLike) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of resampled values `[resamples]`, ignoring nan; None if all are nan."""
    values = np.asarray(samples, np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _sums(values: ArrayLike, cluster_of_item: NDArray, n_clusters: int) -> NDArray[np.float64]:
    table = np.asarray(values, np.float64)
    columns = [np.bincount(cluster_of_item, weights=column, minlength=n_clusters) for column in table.T]
    return np.stack(columns, axis=1) if columns else np.empty((n_clusters, 0))
