from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.selection.moments import clip_values, interval_edges, ranked_moments, yes_spans
from pipeline.video.frames import uniform_indices

answers = st.lists(st.booleans(), max_size=40)


def spans(text: str, span_threshold: int = 6) -> list[list[int]]:
    return yes_spans([letter == "y" for letter in text], span_threshold).tolist()


def test_gaps_up_to_the_threshold_are_bridged() -> None:
    # Paper section 4.5: span_threshold 6.
    assert spans("y" + "n" * 6 + "y") == [[0, 7]]
    assert spans("y" + "n" * 7 + "y") == [[0, 0], [8, 8]]


def test_a_span_starts_and_ends_with_a_yes_frame() -> None:
    assert spans("nnyynynnn") == [[2, 5]]
    assert spans("nnyynynnn", span_threshold=0) == [[2, 3], [5, 5]]


def test_no_yes_frames_give_no_span() -> None:
    assert yes_spans([False] * 5, 6).shape == yes_spans([], 6).shape == (0, 2)


@given(answers, st.integers(0, 8))
def test_spans_cover_every_yes_frame_once(is_yes: list[bool], threshold: int) -> None:
    bounds = yes_spans(is_yes, threshold).tolist()
    covered = [position for first, last in bounds for position in range(first, last + 1)]
    assert covered == sorted(set(covered))
    assert {number for number, yes in enumerate(is_yes) if yes} <= set(covered)
    assert all(is_yes[first] and is_yes[last] for first, last in bounds)
    assert all(following[0] - last - 1 > threshold for (_, last), following in pairwise(bounds))
    for first, last in bounds:
        inside = "".join("y" if yes else "n" for yes in is_yes[first : last + 1])
        assert "n" * (threshold + 1) not in inside


@pytest.mark.parametrize("bad", [[[True]], 3.0])
def test_answers_of_another_shape_are_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="shape"):
        yes_spans(bad, 6)  # type: ignore[arg-type]


def test_75_frames_of_150_seconds_have_intervals_of_2_seconds() -> None:
    edges = interval_edges(0, 150, 75)
    assert edges.tolist() == [2.0 * clip for clip in range(76)]


@given(st.integers(1, 80), st.sampled_from([23.976, 25.0, 29.97, 30.0]), st.floats(4, 300))
def test_uniformly_sampled_frames_lie_in_their_intervals(n: int, fps: float, seconds: float) -> None:
    n_video_frames = int(seconds * fps)
    sampled = uniform_indices(n_video_frames, n, 0, n_video_frames) / fps
    edges = interval_edges(0, n_video_frames / fps, len(sampled))
    assert (sampled >= edges[:-1] - 1 / fps).all() and (sampled <= edges[1:] + 1e-9).all()


@pytest.mark.parametrize(("start", "end", "n"), [(0, 10, 0), (10, 0, 5), (0, float("nan"), 5)])
def test_a_clip_without_frames_or_with_invalid_bounds_is_refused(start: float, end: float, n: int) -> None:
    with pytest.raises(ValueError, match="start <= end"):
        interval_edges(start, end, n)


def test_moments_are_ranked_by_the_mean_or_maximum_over_all_frames_of_the_span() -> None:
    values, edges = [0.5, 0.5, 0.0, 0.9, 0.0, 0.0, 0.0, 0.6], interval_edges(10, 26, 8)
    bounds = [[0, 1], [3, 5], [7, 7]]
    by_mean = ranked_moments(bounds, values, edges, "mean")
    assert by_mean[:, :2].tolist() == [[24, 26], [10, 14], [16, 22]]
    assert by_mean[:, 2] == pytest.approx([0.6, 0.5, 0.3])
    by_max = ranked_moments(bounds, values, edges, "max")
    assert by_max.tolist() == [[16, 22, 0.9], [24, 26, 0.6], [10, 14, 0.5]]


def test_ties_put_the_earlier_moment_first() -> None:
    assert ranked_moments([[0, 0], [2, 2]], [0.5, 0, 0.5], [0, 1, 2, 3], "mean")[:, 0].tolist() == [0, 2]


def test_no_spans_give_no_moments() -> None:
    assert ranked_moments(yes_spans([False], 6), [0.1], [0, 1], "mean").shape == (0, 3)


def test_values_and_edges_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="one edge more"):
        ranked_moments([[0, 0]], [0.5], [0.0], "mean")


def test_each_clip_has_the_value_of_the_frame_at_its_middle() -> None:
    values = np.arange(75.0)
    assert clip_values(values, interval_edges(0, 150, 75), 150, 2).tolist() == values.tolist()
    assert clip_values([1, 2], interval_edges(0, 8, 2), 8, 2).tolist() == [1, 1, 2, 2]
    assert clip_values([1, 2, 3, 4], interval_edges(0, 4, 4), 4, 2).tolist() == [2, 4]


@pytest.mark.parametrize("seconds", [149.2, 149.98, 150.02, 150.9])
def test_a_slightly_shorter_or_longer_video_has_the_same_number_of_clips(seconds: float) -> None:
    assert len(clip_values(np.arange(75.0), interval_edges(0, seconds, 75), seconds, 2)) == 75


def test_clips_outside_the_sampled_part_have_the_lowest_value() -> None:
    assert clip_values([5, 3, 4], interval_edges(4, 10, 3), 14, 2).tolist() == [3, 3, 5, 3, 4, 3, 3]


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30), st.floats(0.1, 200))
def test_clip_values_are_finite_and_come_from_the_frames(values: list[float], seconds: float) -> None:
    clips = clip_values(values, interval_edges(0, seconds, len(values)), seconds, 2)
    assert len(clips) == max(1, round(seconds / 2)) and set(clips.tolist()) <= set(values)


def test_clip_values_without_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="0 values"):
        clip_values([], [0.0], 10, 2)
