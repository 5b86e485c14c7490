from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metrics.localization_metrics import (
    first_true_rank,
    format_localization,
    inside,
    keyframe_quality,
    localization_row,
)
from pipeline.selection.top_k import top_k_positions

SECONDS = [1.0, 3.0, 5.0, 7.0, 9.0]
instants = st.integers(0, 40).map(float)
moment = st.tuples(instants, instants).map(sorted)
moments = st.lists(moment, min_size=1, max_size=4)
frames = st.lists(st.tuples(instants, st.integers(-3, 3)), min_size=1, max_size=20)


def test_a_frame_at_the_end_of_a_moment_is_inside() -> None:
    # The rule of the official pre-training labels: start <= t <= end.
    assert inside(SECONDS, [[3.0, 5.0]])[:, 0].tolist() == [False, True, True, False, False]


def test_precision_and_recall_of_keyframes() -> None:
    quality = keyframe_quality([0, 1, 4], SECONDS, [[2, 6], [6.5, 7.5], [20, 30]])
    assert quality.precision == pytest.approx(1 / 3)  # only the frame at 3 s
    assert quality.frame_recall == pytest.approx(1 / 3)  # of those at 3, 5 and 7 s
    assert quality.moment_recall == pytest.approx(1 / 3)
    assert quality.hit == 1


def test_moments_between_the_sampled_frames_have_no_frame_recall() -> None:
    quality = keyframe_quality([0, 1], SECONDS, [[3.5, 4.5]])
    assert quality.frame_recall is None and quality.precision == quality.moment_recall == quality.hit == 0


def test_a_position_listed_twice_counts_once() -> None:
    assert keyframe_quality([1, 1, 0], SECONDS, [[3, 3]]) == keyframe_quality([0, 1], SECONDS, [[3, 3]])


def test_a_question_without_moments_is_refused() -> None:
    with pytest.raises(ValueError, match="no true moments"):
        keyframe_quality([0], SECONDS, [])


def test_the_first_true_rank_counts_from_one_and_breaks_ties_by_time() -> None:
    assert first_true_rank([0, 5, 5, 9, 1], SECONDS, [[5, 5]]) == 3
    assert first_true_rank([9, 0, 0, 0, 0], SECONDS, [[0, 2]]) == 1
    assert first_true_rank([9, 0, 0, 0, 0], SECONDS, [[20, 30]]) is None


@given(frames, moments)
def test_more_keyframes_never_lower_recall_and_all_frames_have_full_recall(
    sampled: list[tuple[float, int]], true: list[list[float]]
) -> None:
    seconds = sorted(second for second, _ in sampled)
    scores = [score for _, score in sampled]
    qualities = [keyframe_quality(top_k_positions(scores, k), seconds, true) for k in range(1, len(seconds) + 1)]
    for fewer, more in pairwise(qualities):
        assert (more.frame_recall or 0) >= (fewer.frame_recall or 0)
        assert more.moment_recall >= fewer.moment_recall and more.hit >= fewer.hit
    assert qualities[-1].frame_recall in (None, 1.0)
    assert all(0 <= quality.precision <= 1 for quality in qualities)
    assert all((quality.hit == 1) == (quality.precision > 0) == (quality.moment_recall > 0) for quality in qualities)


@given(frames, moments)
def test_the_first_true_rank_is_the_smallest_k_that_hits(
    sampled: list[tuple[float, int]], true: list[list[float]]
) -> None:
    seconds = sorted(second for second, _ in sampled)
    scores = [score for _, score in sampled]
    hits = [k for k in range(1, len(seconds) + 1) if keyframe_quality(top_k_positions(scores, k), seconds, true).hit]
    assert first_true_rank(scores, seconds, true) == (hits[0] if hits else None)


def test_failed_questions_count_as_misses() -> None:
    right = keyframe_quality([1], SECONDS, [[3, 3]])
    unreachable = keyframe_quality([1], SECONDS, [[3.5, 4.5]])
    row = localization_row("ranking", 1, [right, unreachable, None, None], [1, None])
    assert (row.n_questions, row.n_failed, row.n_without_true_frame) == (4, 2, 1)
    assert row.precision_percent == row.moment_recall_percent == row.hit_percent == 25.0
    assert row.frame_recall_percent == pytest.approx(100 / 3)
    assert row.mean_first_true_rank == 1.0


def test_no_questions_have_no_percentages() -> None:
    row = localization_row("keyframes", 0, [], [])
    assert row.n_questions == 0 and row.hit_percent is row.mean_first_true_rank is None
    assert format_localization([row]).splitlines()[1].split() == ["keyframes", "0", "0", "0", "-", "-", "-", "-", "-"]
