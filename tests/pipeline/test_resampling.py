import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap

from pipeline.metrics.resampling import Resampling, percentile_interval, resampled_ratios

outcomes = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.sampled_from("abcdef")), max_size=40)


def ratios(questions: list[tuple[int, int, str]], resamples: int = 50) -> np.ndarray:
    hits = np.array([[hit * counted] for hit, counted, _ in questions]).reshape(-1, 1)
    counted = np.array([[counted] for _, counted, _ in questions]).reshape(-1, 1)
    return resampled_ratios(hits, counted, [cluster for *_, cluster in questions], resamples, 0)


def test_the_interval_over_questions_is_scipys_percentile_bootstrap() -> None:
    right = np.random.default_rng(3).random(300) < 0.62
    low, high = percentile_interval(resampled_ratios(right[:, None], np.ones((300, 1)), np.arange(300), 10_000, 0))
    expected = bootstrap((right,), np.mean, method="percentile", n_resamples=10_000, rng=1).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.007)  # two questions of 300


def test_the_interval_over_videos_is_scipys_over_pairs_of_counts() -> None:
    rng = np.random.default_rng(4)
    n_questions = rng.integers(1, 12, size=80)
    right = rng.binomial(n_questions, rng.choice([0.3, 0.9], size=80))
    hits = np.concatenate([np.arange(n) < k for n, k in zip(n_questions, right, strict=True)])
    samples = resampled_ratios(hits[:, None], np.ones((len(hits), 1)), np.repeat(np.arange(80), n_questions), 10_000, 0)
    expected = bootstrap(
        (right, n_questions),
        lambda x, y, axis: x.sum(axis=axis) / y.sum(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=10_000,
        rng=1,
    ).confidence_interval
    assert percentile_interval(samples) == pytest.approx((expected.low, expected.high), abs=0.007)


def test_the_interval_over_two_opposite_videos_is_0_to_1() -> None:
    # Draws: both right 1/4, one of each 1/2, both wrong 1/4.
    samples = ratios([(1, 1, "a"), (1, 1, "a"), (0, 1, "b"), (0, 1, "b")], 10_000)[:, 0]
    assert set(samples) == {0.0, 0.5, 1.0}
    assert np.mean(samples == 0.5) == pytest.approx(0.5, abs=0.02)
    assert percentile_interval(samples) == (0.0, 1.0)


def test_correlated_questions_of_a_video_widen_the_interval() -> None:
    right, videos = np.repeat(np.arange(40) % 2, 10)[:, None], np.repeat(np.arange(40), 10)
    spans = []
    for resampling in (Resampling("video"), Resampling("question")):
        samples = resampled_ratios(right, np.ones_like(right), resampling.clusters(videos), 2000, 0)
        low, high = percentile_interval(samples)
        spans.append(high - low)
    # Forty draws instead of four hundred: sqrt(10) times as wide.
    assert spans[0] / spans[1] == pytest.approx(10**0.5, rel=0.15)


def test_one_question_per_video_gives_equal_samples_by_video_and_by_question() -> None:
    right = np.random.default_rng(0).integers(0, 2, size=(30, 1))
    names = [f"{number:02d}" for number in range(30)]
    by_video, by_question = (
        resampled_ratios(right, np.ones_like(right), Resampling(by).clusters(names), 100, 0)
        for by in ("video", "question")
    )
    np.testing.assert_array_equal(by_video, by_question)


def test_a_single_counted_video_has_no_interval() -> None:
    samples = ratios([(1, 1, "a"), (0, 1, "a"), (0, 0, "b")])
    assert np.isnan(samples).all() and percentile_interval(samples) is None


def test_no_questions_have_no_interval() -> None:
    assert percentile_interval(ratios([])) is None


def test_drawing_in_chunks_gives_the_same_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    questions = [(number % 2, 1, "abcdef"[number % 6]) for number in range(30)]
    in_one_chunk = ratios(questions, 500)
    monkeypatch.setattr("pipeline.metrics.resampling.CHUNK_DRAWS", 100)
    np.testing.assert_array_equal(ratios(questions, 500), in_one_chunk)


@given(outcomes, st.randoms(use_true_random=False))
def test_the_order_of_questions_does_not_change_the_samples(questions: list[tuple[int, int, str]], random) -> None:
    shuffled = random.sample(questions, len(questions))
    assert ratios(questions).tobytes() == ratios(shuffled).tobytes()


@given(outcomes)
def test_ratios_are_between_0_and_1_or_nan(questions: list[tuple[int, int, str]]) -> None:
    samples = ratios(questions)
    assert ((samples >= 0) & (samples <= 1) | np.isnan(samples)).all()
    supporting = {cluster for _, counted, cluster in questions if counted}
    assert np.isnan(samples).all() == (len(supporting) < 2)
    if supporting == {cluster for *_, cluster in questions} and len(supporting) >= 2:
        assert not np.isnan(samples).any()
