"""The frames that each selector chooses from short lists."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from pipeline.selection.registry import selector_named
from pipeline.selection.selector import Candidates


def chosen(name: str, scores: ArrayLike, k: int, vectors: ArrayLike | None = None, **options: object) -> list[int]:
    selector = selector_named(name)
    return selector(Candidates.of(scores=scores, vectors=vectors), k, selector.options_from(options)).tolist()


def test_aks_takes_one_frame_per_part_of_even_scores() -> None:
    # Parts 0-1, 2-3, 4-5, 6-7.
    assert chosen("aks", [1, 2, 4, 3, 5, 6, 8, 7], 4) == [1, 2, 5, 6]


def test_aks_does_not_split_a_part_with_outstanding_frames() -> None:
    # The best 2 average 1, all frames 0.05: a difference above 0.8.
    scores = np.zeros(40)
    scores[[7, 8]] = 1
    assert chosen("aks", scores, 2) == [7, 8]
    assert chosen("aks", scores, 2, t1=0.99) == [7, 20]
    assert chosen("aks", scores, 2, t2=0.5) == [7, 20]


def test_aks_takes_the_first_frames_of_each_part_of_constant_scores() -> None:
    assert chosen("aks", np.full(16, 3.5), 4) == [0, 4, 8, 12]


def test_aks_rounds_the_share_of_each_part_down() -> None:
    assert len(chosen("aks", np.arange(64), 24)) == 16  # 24 // 16 of each of 16 parts
    assert len(chosen("aks", np.arange(64), 24, depth=3)) == 24


def test_bolt_takes_more_frames_where_scores_are_higher() -> None:
    scores = np.r_[np.ones(50), np.full(50, 10.0), [0.0]]
    positions = np.array(chosen("bolt", scores, 20))
    assert 0 < (positions < 50).sum() < (positions >= 50).sum()
    assert sum(position < 50 for position in chosen("bolt", scores, 20, power=3.0)) == 0


def test_bolt_spreads_frames_evenly_over_constant_scores() -> None:
    assert chosen("bolt", np.ones(100), 4) == [24, 41, 58, 74]  # steps from 1/4 to 3/4


def test_bolt_takes_the_middle_of_the_distribution_for_one_frame() -> None:
    assert chosen("bolt", [0, 0, 1, 5, 1, 0], 1) == [3]


def test_peaks_are_taken_with_their_neighbours_highest_first() -> None:
    scores = [0, 1, 5, 1, 0, 0, 2, 9, 3, 0]
    assert chosen("peaks", scores, 3) == [6, 7, 8]
    assert chosen("peaks", scores, 5) == [1, 2, 6, 7, 8]  # of two neighbours the earlier
    assert chosen("peaks", scores, 2, neighbours=0) == [2, 7]
    assert chosen("peaks", scores, 4, neighbours=0) == [2, 6, 7, 8]  # two peaks, then the highest of the rest


def test_a_plateau_is_one_peak_at_its_middle() -> None:
    assert chosen("peaks", [0, 4, 4, 4, 0, 3, 0, 1], 2, neighbours=0) == [2, 5]
    assert chosen("peaks", [1, 2, 2, 3, 0, 0], 1, neighbours=0) == [3]  # a step on a slope is not a peak


def test_q_frame_follows_the_scores_more_closely_at_low_temperature() -> None:
    scores = np.random.default_rng(0).permutation(100).astype(float)
    best = set(chosen("top_k", scores, 10))
    shared = [len(best & set(chosen("q_frame", scores, 10, temperature=t))) for t in (1e-6, 10.0, 1e6)]
    assert shared[0] == 10 > shared[1] > shared[2]


def test_q_frame_draws_in_proportion_to_the_softmax_of_the_scores() -> None:
    selector = selector_named("q_frame")
    options = selector.options_from({"temperature": 1.0})
    scores = np.log([1.0, 2.0, 5.0])
    drawn = [int(selector(Candidates.of(scores=scores, question_id=str(i)), 1, options)[0]) for i in range(2000)]
    np.testing.assert_allclose(np.bincount(drawn) / 2000, [1 / 8, 2 / 8, 5 / 8], atol=0.04)


@pytest.mark.parametrize("name", ["dpp", "mdp3", "mmr"])
def test_a_list_wise_selector_takes_one_of_equal_frames(name: str) -> None:
    vectors = np.eye(4)[[0, 0, 0, 1, 2, 3]]
    options = {"trade_off": 5.0} if name == "mdp3" else {}
    assert chosen(name, [0.9, 1.0, 0.9, 0.5, 0.4, 0.0], 3, vectors, **options) == [1, 3, 4]


def test_mmr_with_full_relevance_is_top_k() -> None:
    rng = np.random.default_rng(0)
    scores, vectors = rng.random(30), rng.normal(size=(30, 4))
    assert chosen("mmr", scores, 6, vectors, relevance=1.0) == chosen("top_k", scores, 6)


def scaled(scores: np.ndarray) -> np.ndarray:
    return (scores - scores.min()) / (scores.max() - scores.min())


def cosines(vectors: np.ndarray) -> np.ndarray:
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units @ units.T


def greedy(n: int, k: int, value) -> list[int]:  # type: ignore[no-untyped-def]
    """Frames in the order in which they raise `value(frames)` most."""
    chosen_frames: list[int] = []
    for _ in range(min(k, n)):
        chosen_frames.append(
            max((i for i in range(n) if i not in chosen_frames), key=lambda i: value([*chosen_frames, i]))
        )
    return chosen_frames


seeds = st.integers(0, 2**32)
some_examples = settings(max_examples=30)


@some_examples
@given(seeds, st.integers(2, 25), st.integers(1, 6), st.sampled_from([0.0, 0.3, 0.9]))
def test_dpp_maximises_its_objective_greedily(seed: int, n: int, k: int, relevance: float) -> None:
    rng = np.random.default_rng(seed)
    scores, vectors = rng.normal(size=n), rng.normal(size=(n, 8))
    likeness, values = cosines(vectors), scaled(scores)

    def objective(chosen_frames: list[int]) -> float:
        log_det = np.linalg.slogdet(likeness[np.ix_(chosen_frames, chosen_frames)])[1]
        return relevance * values[chosen_frames].sum() + (1 - relevance) * log_det

    if relevance:  # otherwise any frame can be first
        assert chosen("dpp", scores, k, vectors, relevance=relevance) == sorted(greedy(n, k, objective))
    else:
        assert objective(chosen("dpp", scores, k, vectors, relevance=0.0)) <= 1e-9


@some_examples
@given(seeds, st.integers(2, 25), st.integers(1, 6))
def test_mmr_maximises_relevance_minus_similarity_greedily(seed: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    scores, vectors = rng.normal(size=n), rng.normal(size=(n, 8))
    likeness, values = cosines(vectors), scaled(scores)

    def marginal(chosen_frames: list[int]) -> float:
        *before, now = chosen_frames
        return 0.7 * values[now] - 0.3 * max((likeness[now, i] for i in before), default=0.0)

    assert chosen("mmr", scores, k, vectors, relevance=0.7) == sorted(greedy(n, k, marginal))


def kernel(likeness: np.ndarray) -> np.ndarray:
    return np.mean([np.exp(-(2 - 2 * likeness) / (2 * 2.0**power)) for power in range(-3, 2)], axis=0)


def mdp3_by_definition(scores: np.ndarray, vectors: np.ndarray, k: int, trade_off: float, stretch: int) -> list[int]:
    """Allot k frames to stretches by the recursion of the paper, recomputing every determinant."""
    likeness, relevance = kernel(cosines(vectors)), 2 / trade_off * np.log(kernel(scaled(scores)))
    n, sums, traces = len(scores), {0: 0.0}, {0: list[int]()}
    for first in range(0, n, stretch):
        part = range(first, min(first + stretch, n))
        new_sums: dict[int, float] = {}
        new_traces: dict[int, list[int]] = {}
        for before, inside in itertools.product(sorted(sums), range(len(part) + 1)):
            if before + inside > k:
                continue
            given_frames = traces[before][-1:]

            def value(chosen_frames: list[int], given_frames: list[int] = given_frames) -> float:
                def log_det(frames: list[int]) -> float:
                    return float(np.linalg.slogdet(likeness[np.ix_(frames, frames)])[1])

                return relevance[chosen_frames].sum() + log_det(given_frames + chosen_frames) - log_det(given_frames)

            chosen_frames: list[int] = []
            for _ in range(inside):
                chosen_frames.append(
                    max((i for i in part if i not in chosen_frames), key=lambda i: value([*chosen_frames, i]))
                )
            total = sums[before] + (value(chosen_frames) if chosen_frames else 0.0)
            if total > new_sums.get(before + inside, -np.inf):
                new_sums[before + inside] = total
                new_traces[before + inside] = [*traces[before], *sorted(chosen_frames)]
        sums, traces = new_sums, new_traces
    return traces[min(k, n)]


@some_examples
@given(seeds, st.integers(2, 18), st.integers(1, 6), st.sampled_from([4, 7, 32]), st.sampled_from([0.2, 2.0]))
def test_mdp3_matches_the_recursion_of_its_paper(seed: int, n: int, k: int, stretch: int, trade_off: float) -> None:
    rng = np.random.default_rng(seed)
    scores, vectors = rng.normal(size=n), rng.normal(size=(n, 6))
    assert chosen("mdp3", scores, k, vectors, stretch=stretch, trade_off=trade_off) == mdp3_by_definition(
        scores, vectors, k, trade_off, stretch
    )


def test_mdp3_does_not_rescale_cosine_scores() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(40, 6))
    similar = np.clip(cosines(vectors)[0] / 50, -1, 1)  # hardly any relevance: diversity decides
    by_cosine = chosen("mdp3", similar, 4, vectors, scores_are="cosine")
    assert by_cosine != chosen("mdp3", similar, 4, vectors)


def test_spans_are_filled_evenly_starting_with_the_best() -> None:
    scores = [0, 0, 0.9, 0.9, 0.9, 0.9, 0, 0.4, 0.4, 0, 0, 0]
    assert chosen("spans", scores, 2) == [3, 5]  # inside the best span, as uniform sampling spreads them
    assert chosen("spans", scores, 5) == [2, 3, 4, 5, 8]  # all of it, and one of the next
    assert chosen("spans", scores, 8) == [1, 2, 3, 4, 5, 7, 8, 10]  # and evenly outside, where both are too short


def test_spans_of_distinct_scores_are_top_k() -> None:
    scores = np.random.default_rng(0).permutation(40)
    assert chosen("spans", scores, 7) == chosen("top_k", scores, 7)
