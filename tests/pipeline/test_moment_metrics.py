import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metrics.moment_metrics import (
    HIGHLIGHT_LEVELS,
    IOU_THRESHOLDS,
    LENGTH_RANGES_SECONDS,
    benchmark_report,
    format_report,
    highlight_scores,
    retrieval_scores,
)
from tests import moment_reference

# Seconds in steps of 2, as in the benchmark: equal overlaps and IoUs that are exactly a threshold do occur.
seconds = st.integers(0, 75).map(lambda clip: 2.0 * clip)
window = st.tuples(seconds, seconds).filter(lambda bounds: bounds[0] != bounds[1]).map(sorted)
predicted_windows = st.lists(
    st.tuples(window, st.integers(0, 4)).map(lambda pair: [*pair[0], float(pair[1])]), max_size=14
)
retrieval_queries = st.lists(
    st.tuples(predicted_windows, st.lists(window, min_size=1, max_size=6, unique_by=tuple)), max_size=8
)
rating = st.integers(0, 4)
highlight_queries = st.integers(1, 12).flatmap(
    lambda n_clips: st.tuples(
        st.lists(st.integers(-2, 3).map(float), min_size=0, max_size=15),
        st.lists(st.tuples(rating, rating, rating), min_size=n_clips, max_size=n_clips),
    )
)


def windows(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float64).reshape(len(rows), -1 if rows else 3)


def full(predicted: np.ndarray, true: np.ndarray) -> tuple[list[float], list[float]]:
    scores = retrieval_scores([predicted], [true])["full"]
    return scores.recall_at_one.tolist(), scores.mean_average_precision.tolist()


def test_a_window_is_right_up_to_the_threshold_of_its_iou() -> None:
    # Overlap 14 s, union 20 s: IoU 0.7 exactly, which reaches 0.7.
    recall, precision = full(windows([0, 14, 0.9]), windows([0, 20]))
    assert recall == precision == [100.0] * 5 + [0.0] * 5


def test_a_second_hit_of_a_true_window_is_wrong() -> None:
    # Right, wrong (taken), right: precision 1, 1/2, 2/3 at recalls 1/2, 1/2, 1: 1/2 * 1 + 1/2 * 2/3.
    predicted = windows([0, 10, 0.9], [0, 10, 0.8], [50, 60, 0.7])
    assert full(predicted, windows([0, 10], [50, 60]))[1] == pytest.approx([100 * (1 / 2 + 1 / 3)] * 10)


def test_precision_is_interpolated_from_later_hits() -> None:
    # Wrong, right, right: precision 0, 1/2, 2/3; interpolated 2/3 at both recalls.
    predicted = windows([100, 110, 0.9], [0, 10, 0.8], [50, 60, 0.7])
    assert full(predicted, windows([0, 10], [50, 60]))[1] == pytest.approx([100 * 2 / 3] * 10)


def test_recall_at_one_uses_the_list_order_and_precision_the_scores() -> None:
    recall, precision = full(windows([100, 110, 0.1], [0, 10, 0.9]), windows([0, 10]))
    assert recall == [0.0] * 10 and precision == [100.0] * 10


def test_only_the_first_ten_windows_count() -> None:
    wrong = [[100.0 + n, 101.0 + n, 0.5] for n in range(10)]
    assert full(windows(*wrong, [0, 10, 0.9]), windows([0, 10]))[1] == [0.0] * 10
    assert full(windows([0, 10, 0.1], *wrong[1:]), windows([0, 10]))[1] == pytest.approx([10.0] * 10)


def test_a_length_range_compares_all_predictions_with_true_windows_of_that_length() -> None:
    predicted, true = windows([0, 40, 0.9], [60, 70, 0.8]), windows([0, 40], [60, 70])
    by_range = retrieval_scores([predicted], [true])
    assert by_range["long"].mean_average_precision.tolist() == [100.0] * 10
    assert by_range["short"].mean_average_precision.tolist() == [50.0] * 10  # its only window is second
    assert by_range["short"].recall_at_one.tolist() == [0.0] * 10


def test_a_length_range_excludes_queries_without_a_window_of_that_length() -> None:
    true = [windows([0, 10]), windows([0, 12]), windows([0, 30], [40, 41]), windows([0, 31]), windows([0, 151])]
    by_range = retrieval_scores([windows()] * 5, true)
    assert [by_range[name].n_queries for name in ("full", "long", "middle", "short")] == [5, 1, 2, 2]


def test_a_query_without_predicted_windows_counts_as_wrong() -> None:
    scores = retrieval_scores([windows(), windows([0, 10, 1])], [windows([0, 10]), windows([0, 10])])["full"]
    assert scores.recall_at_one.tolist() == scores.mean_average_precision.tolist() == [50.0] * 10


def test_a_window_of_zero_length_matches_nothing_without_a_warning() -> None:
    assert full(windows([5, 5, 1]), windows([5, 5], [0, 10])) == ([0.0] * 10, [0.0] * 10)


@given(retrieval_queries)
def test_retrieval_scores_match_the_definition(queries: list[tuple[list, list]]) -> None:
    predictions, truths = ([windows(*query[part]) for query in queries] for part in (0, 1))
    by_range = retrieval_scores(predictions, truths)
    for name, (low, high) in LENGTH_RANGES_SECONDS.items():
        kept = [(predicted, [w for w in true if low < w[1] - w[0] <= high]) for predicted, true in queries]
        kept = [(predicted, true) for predicted, true in kept if true]
        assert by_range[name].n_queries == len(kept)
        for number, threshold in enumerate(IOU_THRESHOLDS):
            scores = (by_range[name].recall_at_one[number], by_range[name].mean_average_precision[number])
            if not kept:
                assert all(map(math.isnan, scores))
                continue
            recalled = [moment_reference.is_recalled_at_one(*query, threshold) for query in kept]
            precision = [moment_reference.average_precision(*query, threshold) for query in kept]
            assert scores[0] == pytest.approx(100 * sum(recalled) / len(kept))
            assert scores[1] == pytest.approx(100 * sum(precision) / len(kept))


@given(st.lists(st.lists(window, min_size=1, max_size=5, unique_by=tuple), min_size=1, max_size=5))
def test_predicting_the_truth_is_perfect(true: list[list[list[float]]]) -> None:
    predicted = [windows(*([*bounds, -float(rank)] for rank, bounds in enumerate(query))) for query in true]
    scores = retrieval_scores(predicted, [windows(*query) for query in true])["full"]
    assert scores.recall_at_one.tolist() == [100.0] * 10
    assert scores.mean_average_precision == pytest.approx([100.0] * 10)


def highlights(saliency: list[float], *ratings: list[int]) -> dict[str, tuple[float, float]]:
    by_level = highlight_scores([np.array(saliency, np.float64)], [np.array(ratings, np.float64)])
    return {level: (scores.mean_average_precision, scores.hit_at_one) for level, scores in by_level.items()}


def test_highlight_precision_is_averaged_over_annotators_and_a_hit_needs_one() -> None:
    # The highest clip is very good only for the first annotator; no clip is for the third, which counts as 0.
    by_level = highlights([0.9, 0.5, 0.1], [4, 0, 1], [0, 4, 1], [0, 0, 1])
    assert by_level["VeryGood"] == (pytest.approx(100 * (1 + 1 / 2 + 0) / 3), 100.0)


def test_clips_of_equal_score_are_retrieved_together() -> None:
    # One right clip among two of equal score, whichever comes first: precision 1/2.
    for ratings in ([[4] * 3, [0] * 3, [0] * 3], [[0] * 3, [4] * 3, [0] * 3]):
        assert highlights([0.7, 0.7, 0.1], *ratings)["Good"][0] == pytest.approx(50.0)


def test_score_levels_have_equal_weight_for_any_number_of_right_clips() -> None:
    # Two right clips at the top (precision 1), one after two wrong ones (3/5): (1 + 3/5) / 2, not weighted by recall.
    by_level = highlights([0.9, 0.9, 0.5, 0.4, 0.3], [2] * 3, [2] * 3, [0] * 3, [0] * 3, [2] * 3)
    assert by_level["Fair"][0] == pytest.approx(80.0)


def test_missing_clips_have_saliency_zero_and_clips_after_the_end_are_ignored() -> None:
    right_order_without_hit = {level: (100.0, 0.0) for level in HIGHLIGHT_LEVELS}
    assert highlights([-1.0], [0] * 3, [4] * 3) == right_order_without_hit
    assert highlights([0.1, 0.2, 0.9], [0] * 3, [4] * 3) == right_order_without_hit


def test_a_query_without_saliency_counts_as_wrong() -> None:
    rated = np.array([[4.0] * 3, [0.0] * 3])
    scores = highlight_scores([np.array([]), np.array([1.0, 0.0])], [rated, rated])["Fair"]
    assert (scores.n_queries, scores.mean_average_precision, scores.hit_at_one) == (2, 50.0, 50.0)


@given(st.lists(highlight_queries, min_size=1, max_size=6))
def test_highlight_scores_match_the_definition(queries: list[tuple[list[float], list[tuple]]]) -> None:
    by_level = highlight_scores(
        [np.array(s, np.float64) for s, _ in queries], [np.array(r, np.float64) for _, r in queries]
    )
    for level, least in HIGHLIGHT_LEVELS.items():
        precisions, hits = [], []
        for saliency, ratings in queries:
            for annotator in range(3):
                is_right = [row[annotator] >= least for row in ratings]
                value = moment_reference.highlight_average_precision(saliency, is_right) if saliency else 0.0
                precisions.append(value)
            top = saliency.index(max(saliency)) if saliency else len(ratings)
            hits.append(top < len(ratings) and max(ratings[top]) >= least)
        assert by_level[level].mean_average_precision == pytest.approx(100 * sum(precisions) / len(precisions))
        assert by_level[level].hit_at_one == pytest.approx(100 * sum(hits) / len(hits))


def test_the_report_has_the_layout_of_the_benchmarks_evaluator() -> None:
    retrieval = retrieval_scores([windows([0, 10, 1])], [windows([0, 10])])
    rated = np.array([[2.0, 3.0, 4.0]])
    report = benchmark_report(retrieval, highlight_scores([np.array([1.0])], [rated]))
    assert list(report) == [
        "brief",
        *(f"HL-min-{level}" for level in HIGHLIGHT_LEVELS),
        "full",
        "long",
        "middle",
        "short",
    ]
    assert list(report["brief"]) == [
        *("MR-full-R1@0.5", "MR-full-R1@0.7", "MR-full-mAP", "MR-full-mAP@0.5", "MR-full-mAP@0.75"),
        *("MR-long-mAP", "MR-middle-mAP", "MR-short-mAP"),
        *(f"HL-min-{level}-{metric}" for level in HIGHLIGHT_LEVELS for metric in ("mAP", "Hit1")),
    ]
    assert report["HL-min-Good"] == {"HL-mAP": 66.67, "HL-Hit1": 100.0}
    assert list(report["full"]["MR-R1"]) == [*map(str, IOU_THRESHOLDS)]
    assert report["short"]["MR-mAP"]["average"] == report["brief"]["MR-short-mAP"] == 100.0


def test_a_length_without_queries_is_null() -> None:
    report = benchmark_report(retrieval_scores([windows([0, 10, 1])], [windows([0, 10])]), None)
    assert report["long"]["MR-R1"]["0.5"] is None and report["brief"]["MR-long-mAP"] is None
    assert "HL-min-Fair" not in report


def test_a_report_without_queries_is_null() -> None:
    report = benchmark_report(retrieval_scores([], []), highlight_scores([], []))
    assert set(report["brief"].values()) == {None}


def test_the_printed_report_is_aligned() -> None:
    lines = format_report(
        benchmark_report(retrieval_scores([windows([0, 14, 1])], [windows([0, 20])]), None)
    ).splitlines()
    assert lines[0] == "               0.5    0.55     0.6    0.65     0.7  0.75   0.8  0.85   0.9  0.95  average"
    assert lines[1] == "R1 full     100.00  100.00  100.00  100.00  100.00  0.00  0.00  0.00  0.00  0.00"
    assert lines[-1].split() == ["mAP", "short", *["-"] * 11]
