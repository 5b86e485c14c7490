import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import chi2

from pipeline.metrics.accuracy import Outcome, Reporting, accuracy_table
from pipeline.metrics.comparison import comparison_table, format_comparison_table, holm, mcnemar_p_value
from pipeline.metrics.resampling import Resampling

FEW = Resampling(resamples=200)
pair = st.tuples(
    st.none() | st.integers(0, 2),
    st.none() | st.integers(0, 2),
    st.sampled_from("uvwx"),
    st.sampled_from(["p", "q", ""]),
)


def runs(pairs: list[tuple[int | None, int | None, str, str]]) -> tuple[list[Outcome], list[Outcome]]:
    """Outcomes of A and B from (prediction of A, of B, video, type and group); the correct option is 0."""
    return tuple([Outcome(0, row[run], row[2], row[3], row[3]) for row in pairs] for run in (0, 1))


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemars_p_value_is_that_of_a_fair_coin(b: int, c: int) -> None:
    n, tail = b + c, sum(math.comb(b + c, i) for i in range(min(b, c) + 1))
    assert mcnemar_p_value(b, c) == pytest.approx(min(1.0, 2 * tail / 2**n))


def test_mcnemars_p_value_agrees_with_chi_square_at_large_counts() -> None:
    # McNemar 1947 with Edwards' continuity correction: (|b - c| - 1)^2 / (b + c), one degree of freedom.
    assert mcnemar_p_value(150, 86) == pytest.approx(chi2.sf((150 - 86 - 1) ** 2 / 236, 1), rel=0.1)
    assert mcnemar_p_value(1500, 1400) == pytest.approx(chi2.sf((1500 - 1400 - 1) ** 2 / 2900, 1), rel=0.01)


@given(st.lists(st.floats(0, 1), min_size=1))
def test_holm_correction_keeps_the_order_and_never_lowers_a_p_value(values: list[float]) -> None:
    adjusted = holm(values)
    assert all(value <= after <= 1 for value, after in zip(values, adjusted, strict=True))
    by_value = [after for _, after in sorted(zip(values, adjusted, strict=True))]
    assert by_value == sorted(by_value)
    assert min(adjusted) == min(1, len(values) * min(values))


def test_the_difference_is_b_minus_a_and_only_disagreements_count() -> None:
    a, b = runs([(0, 0, "u", "p")] * 5 + [(1, 0, "v", "p")] * 3 + [(0, 2, "w", "p")] + [(1, 2, "x", "p")])
    row = comparison_table(a, b)[0]
    assert (row.a_percent, row.b_percent, row.difference_points) == (60.0, 80.0, 20.0)
    assert (row.n_only_a, row.n_only_b, row.p_value) == (1, 3, pytest.approx(10 / 16))


def test_the_paired_test_detects_a_difference_within_overlapping_intervals() -> None:
    a, b = runs([(0, 0, f"v{n}", "") for n in range(300)] + [(1, 1, f"w{n}", "") for n in range(180)])
    better = runs([(1, 0, f"x{n}", "") for n in range(20)])
    a, b = a + better[0], b + better[1]
    row_a, row_b, difference = accuracy_table(a)[0], accuracy_table(b)[0], comparison_table(a, b)[0]
    assert row_a.bootstrap_high_percent > row_b.bootstrap_low_percent
    assert difference.low_points > 0 and difference.p_value == pytest.approx(2 / 2**20)


def test_the_headline_mean_of_groups_has_a_difference_and_an_interval_but_no_p_value() -> None:
    a, b = runs([(1, 0, f"v{n}", "p") for n in range(4)] + [(0, 0, f"w{n}", "q") for n in range(12)])
    head, overall, *_ = comparison_table(a, b, Reporting("mean_of_groups"))
    assert (head.name, head.is_headline, head.difference_points, head.p_value) == ("mean of 2 groups", True, 50.0, None)
    assert (overall.is_headline, overall.difference_points) == (False, 25.0)
    assert head.low_points == head.high_points == 50.0  # in every draw all of p differ and none of q


def test_different_or_unlabelled_questions_are_refused() -> None:
    for a, b in (([], []), ([Outcome(0, 0)], []), ([Outcome(0, 0)], [Outcome(1, 0)]), ([Outcome(None, 0)],) * 2):
        with pytest.raises(ValueError, match="the same questions"):
            comparison_table(a, b)


def test_the_printed_table_is_aligned() -> None:
    a, b = runs([(0, 0, "u", "p")] * 5 + [(1, 0, "v", "p")] * 3 + [(0, 2, "w", "q")])
    rows = comparison_table(a, b, Reporting("mean_of_groups"), FEW)
    assert format_comparison_table(rows, "video").splitlines()[:4] == [
        "                  questions        A        B   B - A     95 % by video  only A right  only B right  p (McNemar)",
        "mean of 2 groups          9   81.2 %   50.0 %   -31.2                 -             1             3            -",
        "overall                   9   66.7 %   88.9 %   +22.2  -100.0 to +100.0             1             3        0.625",
        "  p                       8   62.5 %  100.0 %   +37.5    +0.0 to +100.0             0             3         0.25",
    ]


@given(st.lists(pair, min_size=1, max_size=40))
def test_swapping_the_runs_changes_signs_and_no_p_value(pairs: list) -> None:
    a, b = runs(pairs)
    for row, other in zip(comparison_table(a, b, resampling=FEW), comparison_table(b, a, resampling=FEW), strict=True):
        assert (row.difference_points, row.p_value) == (-other.difference_points, other.p_value)
        assert (row.n_only_a, row.n_only_b) == (other.n_only_b, other.n_only_a)
        if row.low_points is not None:
            np.testing.assert_allclose(
                [row.low_points, row.high_points], [-other.high_points, -other.low_points], atol=1e-9
            )


@given(st.lists(pair, min_size=1, max_size=40), st.sampled_from(["overall", "mean_of_groups"]))
def test_the_comparison_has_the_rows_and_accuracies_of_the_accuracy_tables(pairs: list, headline: Any) -> None:
    a, b = runs(pairs)
    assume(headline == "overall" or any(outcome.group for outcome in a))
    reporting = Reporting(headline, {"both": ("p", "q")})
    tables = (
        accuracy_table(a, reporting, FEW),
        accuracy_table(b, reporting, FEW),
        comparison_table(a, b, reporting, FEW),
    )
    for row_a, row_b, row in zip(*tables, strict=True):
        assert (row.scope, row.name, row.is_headline) == (row_a.scope, row_a.name, row_a.is_headline)
        assert (row.a_percent, row.b_percent) == pytest.approx((row_a.accuracy_percent, row_b.accuracy_percent))
        assert row.difference_points == pytest.approx(row_b.accuracy_percent - row_a.accuracy_percent)
