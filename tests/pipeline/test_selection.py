from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.selection.keyframes import majority_vote, ranking_scores
from pipeline.selection.registry import selector_named
from pipeline.selection.selector import Candidates
from pipeline.selection.top_k import top_k_positions

finite = st.floats(-1e6, 1e6)
counts = st.integers(min_value=1, max_value=400)
# Few distinct values, so that ties are common.
scores_with_ties = arrays(np.float32, counts, elements=st.integers(-3, 3).map(float))
vote_logits = arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(2, 5)), elements=st.floats(-30, 30))


def test_keyframes_are_the_highest_scores_in_time_order() -> None:
    assert top_k_positions([0.1, 9.0, -2.0, 5.0, 7.0], 3).tolist() == [1, 3, 4]


def test_ties_go_to_the_earlier_frame() -> None:
    assert top_k_positions([1.0, 2.0, 2.0, 2.0, 1.0], 2).tolist() == [1, 2]


def test_a_nan_score_is_refused() -> None:
    with pytest.raises(ValueError, match="1 nan"):
        top_k_positions([1.0, float("nan")], 1)


@pytest.mark.parametrize("k", [0, -1])
def test_less_than_one_keyframe_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        top_k_positions([1.0], k)


@given(scores_with_ties, counts)
def test_no_other_frame_scores_higher_than_a_keyframe(scores: np.ndarray, k: int) -> None:
    positions = top_k_positions(scores, k)
    assert positions.dtype == np.int64
    assert len(positions) == min(k, len(scores))
    assert (np.diff(positions) > 0).all()
    left_out = np.setdiff1d(np.arange(len(scores)), positions)
    for position in left_out:
        assert all((scores[p], -p) > (scores[position], -position) for p in positions)


def test_uniform_positions_are_midpoints_of_equal_intervals() -> None:
    assert selector_named("uniform")(Candidates(32), 4).tolist() == [4, 12, 20, 28]  # intervals 0-8, 8-16, 16-24, 24-32
    assert selector_named("uniform")(Candidates(10), 4).tolist() == [1, 3, 6, 8]  # edges 0, 2.5, 5, 7.5, 10, truncated


def test_random_positions_reach_every_pair_of_frames() -> None:
    random = selector_named("random")
    drawn = {tuple(random(Candidates.of(4, f"question {number}"), 2).tolist()) for number in range(200)}
    assert drawn == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}


def test_the_three_rankings_choose_different_frames() -> None:
    # Frame 0 has the highest yes logit, frame 1 the highest p(yes), frame 2 the clearest yes over no.
    logit_yes, logit_no, probability_yes = [5.0, 4.0, 3.0], [6.0, 4.0, 0.0], [0.1, 0.5, 0.2]
    best = {
        rank_by: int(ranking_scores(logit_yes, logit_no, probability_yes, rank_by).argmax())
        for rank_by in ("logit_yes", "probability_yes", "yes_versus_no")
    }
    assert best == {"logit_yes": 0, "probability_yes": 1, "yes_versus_no": 2}


def test_an_unknown_ranking_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="logit_yes, probability_yes or yes_versus_no"):
        ranking_scores([0.0], [0.0], [0.5], "yes")  # type: ignore[arg-type]


@given(arrays(np.float32, 8, elements=st.floats(-20, 20, width=32)), arrays(np.float32, 8, elements=finite.map(int)))
def test_yes_versus_no_ranks_like_the_softmax_over_both_words(logit_yes: np.ndarray, logit_no: np.ndarray) -> None:
    scores = ranking_scores(logit_yes, logit_no, np.zeros(8), "yes_versus_no")
    assert scores.dtype == np.float64
    softmax = 1 / (1 + np.exp(np.clip(-scores, -700, 700)))
    order = np.argsort(scores)
    assert (np.diff(softmax[order]) >= 0).all()


def test_the_majority_wins_over_a_single_confident_frame() -> None:
    winner, votes = majority_vote([[1.0, 0.0], [1.0, 0.0], [0.0, 50.0]])
    assert winner == 0
    assert votes.tolist() == [2, 1]


def test_a_tied_vote_goes_to_the_likelier_option() -> None:
    winner, votes = majority_vote([[1.0, 0.0, -9.0], [0.0, 3.0, -9.0]])
    assert votes.tolist() == [1, 1, 0]
    assert winner == 1


def test_an_option_without_most_votes_never_wins_by_likelihood() -> None:
    # Option 2 is second for every frame and the likeliest in sum, but no frame's choice.
    assert majority_vote([[5.0, -90.0, 4.9], [-90.0, 5.0, 4.9]])[0] == 0


def test_a_full_tie_goes_to_the_lower_index() -> None:
    assert majority_vote([[2.0, 1.0], [1.0, 2.0]])[0] == 0
    assert majority_vote([[1.0, 1.0]])[0] == 0


@pytest.mark.parametrize("logits", [np.zeros((0, 4)), np.zeros((2, 0)), np.zeros(4), [[0.0, float("nan")]]])
def test_a_vote_without_frames_or_with_nan_is_refused(logits: np.ndarray) -> None:
    with pytest.raises(ValueError, match="finite"):
        majority_vote(logits)


@given(vote_logits, st.randoms(use_true_random=False))
def test_a_vote_counts_every_frame_once_in_any_order(logits: np.ndarray, random: Random) -> None:
    winner, votes = majority_vote(logits)
    assert votes.sum() == len(logits)
    assert votes[winner] == votes.max()
    order = list(range(len(logits)))
    random.shuffle(order)
    assert majority_vote(logits[order])[1].tolist() == votes.tolist()


@given(counts, st.integers(1, 12), st.floats(0, 100), st.floats(0, 30))
def test_oracle_frames_lie_in_the_moment(n: int, k: int, start: float, duration: float) -> None:
    seconds = np.arange(n) * 0.5
    positions = selector_named("oracle")(Candidates.of(seconds=seconds, moments=[[start, start + duration]]), k)
    true = np.flatnonzero((seconds >= start) & (seconds <= start + duration))
    assert len(positions) == min(k, len(true)) and set(positions) <= set(true)
    assert positions.tolist() == sorted(set(positions.tolist()))


def test_oracle_frames_are_spread_over_all_moments() -> None:
    def chosen(moments: list[list[float]], k: int) -> list[int]:
        return selector_named("oracle")(Candidates.of(seconds=np.arange(8.0), moments=moments), k).tolist()

    assert chosen([[5.0, 7.5], [0.5, 2.0]], 2) == [2, 6]
    assert chosen([[2.2, 2.8]], 4) == []
