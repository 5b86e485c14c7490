import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap

from pipeline.metrics.resampling import Resampling, percentile_interval, resampled_ratios

items = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.sampled_from("abcdef")), max_size=40)


def ratios(found: list[tuple[int, int, str]], resamples: int = 50) -> np.ndarray:
    hits = np.array([[hit * counted] for hit, counted, _ in found]).reshape(-1, 1)
    counted = np.array([[counted] for _, counted, _ in found]).reshape(-1, 1)
    return resampled_ratios(hits, counted, [cluster for *_, cluster in found], resamples, 0)


def test_the_interval_over_questions_is_scipys_percentile_bootstrap() -> None:
    right = np.random.default_rng(3).random(300) < 0.62
    low, high = percentile_interval(resampled_ratios(right[:, None], np.ones((300, 1)), np.arange(300), 10_000, 0))
    wanted = bootstrap((right,), np.mean, method="percentile", n_resamples=10_000, rng=1).confidence_interval
    assert (low, high) == pytest.approx((wanted.low, wanted.high), abs=0.007)  # two questions of 300


def test_the_interval_over_videos_is_scipys_over_pairs_of_counts() -> None:
    rng = np.random.default_rng(4)
    asked = rng.integers(1, 12, size=80)
    right = rng.binomial(asked, rng.choice([0.3, 0.9], size=80))
    hits = np.concatenate([np.arange(n) < k for n, k in zip(asked, right, strict=True)])
    samples = resampled_ratios(hits[:, None], np.ones((len(hits), 1)), np.repeat(np.arange(80), asked), 10_000, 0)
    wanted = bootstrap(
        (right, asked),
        lambda x, y, axis: x.sum(axis=axis) / y.sum(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=10_000,
        rng=1,
    ).confidence_interval
    assert percentile_interval(samples) == pytest.approx((wanted.low, wanted.high), abs=0.007)


def test_two_videos_one_right_and_one_wrong_could_have_been_anything() -> None:
    # Draws: both right 1/4, one of each 1/2, both wrong 1/4.
    samples = ratios([(1, 1, "a"), (1, 1, "a"), (0, 1, "b"), (0, 1, "b")], 10_000)[:, 0]
    assert set(samples) == {0.0, 0.5, 1.0}
    assert np.mean(samples == 0.5) == pytest.approx(0.5, abs=0.02)
    assert percentile_interval(samples) == (0.0, 1.0)


def test_questions_that_rise_and_fall_with_their_video_widen_the_interval() -> None:
    right, videos = np.repeat(np.arange(40) % 2, 10)[:, None], np.repeat(np.arange(40), 10)
    spans = []
    for resampling in (Resampling("video"), Resampling("question")):
        samples = resampled_ratios(right, np.ones_like(right), resampling.clusters(videos), 2000, 0)
        low, high = percentile_interval(samples)
        spans.append(high - low)
    # Forty draws instead of four hundred: sqrt(10) times as wide.
    assert spans[0] / spans[1] == pytest.approx(10**0.5, rel=0.15)


def test_where_every_question_has_a_video_of_its_own_both_ways_are_the_same() -> None:
    right = np.random.default_rng(0).integers(0, 2, size=(30, 1))
    names = [f"{number:02d}" for number in range(30)]
    by_video, by_question = (
        resampled_ratios(right, np.ones_like(right), Resampling(by).clusters(names), 100, 0)
        for by in ("video", "question")
    )
    np.testing.assert_array_equal(by_video, by_question)


def test_one_video_says_nothing_about_others() -> None:
    samples = ratios([(1, 1, "a"), (0, 1, "a"), (0, 0, "b")])
    assert np.isnan(samples).all() and percentile_interval(samples) is None


def test_no_items_have_no_interval() -> None:
    assert percentile_interval(ratios([])) is None


def test_many_clusters_are_drawn_in_bounded_pieces_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(number % 2, 1, "abcdef"[number % 6]) for number in range(30)]
    whole = ratios(found, 500)
    monkeypatch.setattr("pipeline.metrics.resampling.CHUNK_DRAWS", 100)
    np.testing.assert_array_equal(ratios(found, 500), whole)


@given(items, st.randoms(use_true_random=False))
def test_the_order_of_questions_changes_no_byte(found: list[tuple[int, int, str]], random) -> None:
    shuffled = random.sample(found, len(found))
    assert ratios(found).tobytes() == ratios(shuffled).tobytes()


@given(items)
def test_ratios_lie_between_0_and_1_and_nan_is_all_or_an_empty_draw(found: list[tuple[int, int, str]]) -> None:
    samples = ratios(found)
    assert ((samples >= 0) & (samples <= 1) | np.isnan(samples)).all()
    supporting = {cluster for _, counted, cluster in found if counted}
    assert np.isnan(samples).all() == (len(supporting) < 2)
    if supporting == {cluster for *_, cluster in found} and len(supporting) >= 2:
        assert not np.isnan(samples).any()
