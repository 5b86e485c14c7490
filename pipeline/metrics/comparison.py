"""Paired comparison of two runs over the same questions: the difference, its interval, and McNemar's test.

Only questions that exactly one run answers correctly distinguish the runs, so a paired test has far more power than comparing
two accuracies with overlapping intervals.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.accuracy import INDENTS, OVERALL, Outcome, Reporting, Scope, Subset, subsets
from pipeline.metrics.resampling import BY_VIDEO, Resampling, percentile_interval, resampled_ratios
from pipeline.text_table import NBSP, Table, aligned, or_dash

ALPHA = 0.05  # significance level


@dataclass(frozen=True)
class PairedRow:
    """One line of the comparison of runs A and B over the same questions, all with a known answer.

    `difference_points` is B's accuracy minus A's, in percentage points, with its paired 95 % bootstrap interval (None where
    fewer than two videos, or questions, support it). `p_value` is McNemar's, None for a mean of groups.
    """

    scope: Scope
    name: str
    is_headline: bool
    n_questions: int
    a_percent: float
    b_percent: float
    difference_points: float
    low_points: float | None
    high_points: float | None
    n_only_a: int
    n_only_b: int
    p_value: float | None


def mcnemar_p_value(n_only_a: int, n_only_b: int) -> float:
    """Return the exact two-sided p value of McNemar's test on the two discordant counts; 1.0 if both are 0.

    Uses the binomial distribution, not the chi-square approximation: it takes milliseconds for tens of thousands of questions.
    """
    from scipy.stats import binomtest  # imported here because it takes most of a second

    n = n_only_a + n_only_b
    return float(binomtest(n_only_a, n, 0.5).pvalue) if n else 1.0


def holm(p_values: Sequence[float | None]) -> list[float]:
    """Return the p values after Holm's correction for their number, in the same order; None (no test) counts as 1."""
    values = [1.0 if value is None else value for value in p_values]
    corrected, highest = [0.0] * len(values), 0.0
    for rank, number in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[number]))
        corrected[number] = highest
    return corrected


def power(row: PairedRow, points: float) -> float:
    """Return the probability, 0 to 1, that McNemar's test detects a true difference of `points` percentage points.

    Uses the normal approximation (Connor 1987, Biometrics 43) with the row's number of questions and its share of discordant
    ones, which is at least the difference.
    """
    difference, discordant = points / 100, (row.n_only_a + row.n_only_b) / row.n_questions
    discordant = max(discordant, difference)
    spread = sqrt(max(discordant - difference**2, 0.0))
    normal = NormalDist()
    excess = difference * sqrt(row.n_questions) - normal.inv_cdf(1 - ALPHA / 2) * sqrt(discordant)
    return normal.cdf(excess / spread) if spread else float(excess > 0)


def group_rows(rows: Sequence[PairedRow]) -> list[PairedRow]:
    """Return the rows of the data set's groups (durations, for example), or of its question types if it has no groups."""
    by_scope = {scope: [row for row in rows if row.scope == scope] for scope in ("group", "type")}
    return by_scope["group"] or by_scope["type"]


def comparison_table(
    a: Sequence[Outcome],
    b: Sequence[Outcome],
    reporting: Reporting = OVERALL,
    resampling: Resampling = BY_VIDEO,
) -> list[PairedRow]:
    """Compare two runs' outcomes of the same questions, in the same order; return the rows of `accuracy_table`.

    Raises ValueError without outcomes, for different questions, or for a question without a known answer.
    """
    if not a or [x.answer_index for x in a] != [x.answer_index for x in b] or any(x.answer_index is None for x in a):
        raise ValueError(f"{len(a)} and {len(b)} outcomes; expected the same questions, each with a known answer")
    parts = subsets(a, reporting.pooled_types)
    right_a, right_b = (np.array([outcome.correct for outcome in outcomes], bool) for outcomes in (a, b))
    change = right_b.astype(np.int64) - right_a
    members = np.stack([part.members for part in parts], axis=1)
    clusters = resampling.clusters([outcome.video_id for outcome in a])
    differences = 100 * resampled_ratios(
        members * change[:, None], members, clusters, resampling.resamples, resampling.seed
    )
    rows = [
        _row(part, reporting, right_a[part.members], right_b[part.members], differences[:, column])
        for column, part in enumerate(parts)
    ]
    groups = [column for column, row in enumerate(rows) if row.scope == "group"]
    if reporting.headline == "mean_of_groups" and groups:
        rows.insert(0, _mean_row([rows[column] for column in groups], differences[:, groups]))
    return rows


def _row(
    part: Subset,
    reporting: Reporting,
    right_a: NDArray[np.bool_],
    right_b: NDArray[np.bool_],
    differences: NDArray[np.float64],
) -> PairedRow:
    n_only_a, n_only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    low, high = percentile_interval(differences) or (None, None)
    return PairedRow(
        scope=part.scope,
        name=part.name,
        is_headline=part.scope == reporting.headline,
        n_questions=len(right_a),
        a_percent=100 * float(right_a.mean()),
        b_percent=100 * float(right_b.mean()),
        difference_points=100 * (n_only_b - n_only_a) / len(right_a),
        low_points=low,
        high_points=high,
        n_only_a=n_only_a,
        n_only_b=n_only_b,
        p_value=mcnemar_p_value(n_only_a, n_only_b),
    )


def _mean_row(groups: Sequence[PairedRow], differences: NDArray[np.float64]) -> PairedRow:
    low, high = percentile_interval(differences.mean(axis=1)) or (None, None)
    return PairedRow(
        scope="mean_of_groups",
        name=f"mean of {len(groups)} groups",
        is_headline=True,
        n_questions=sum(row.n_questions for row in groups),
        a_percent=sum(row.a_percent for row in groups) / len(groups),
        b_percent=sum(row.b_percent for row in groups) / len(groups),
        difference_points=sum(row.difference_points for row in groups) / len(groups),
        low_points=low,
        high_points=high,
        n_only_a=sum(row.n_only_a for row in groups),
        n_only_b=sum(row.n_only_b for row in groups),
        p_value=None,
    )


def format_comparison_table(rows: Sequence[PairedRow], by: str, table: Table = aligned) -> str:
    """Format the rows as a table, by default plain text; `by` names what was resampled, video or question."""
    header = ["", "questions", "A", "B", "B - A", f"95 % by {by}", "only A right", "only B right", "p (McNemar)"]
    lines = [
        [
            INDENTS[row.scope] + row.name,
            str(row.n_questions),
            or_dash(row.a_percent, f"{{:.1f}}{NBSP}%"),
            or_dash(row.b_percent, f"{{:.1f}}{NBSP}%"),
            f"{row.difference_points:+.1f}",
            "-" if row.low_points is None else f"{row.low_points:+.1f} to{NBSP}{row.high_points:+.1f}",
            str(row.n_only_a),
            str(row.n_only_b),
            or_dash(row.p_value, "{:.3g}"),
        ]
        for row in rows
    ]
    return table([header, *lines])
