"""Properties of every selector for any scores and vectors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cache.errors import RecipeError, SevilaError
from pipeline.selection.registry import selector_named, selector_names
from pipeline.selection.selector import Candidates, Options

NAMES = ["aks", "bolt", "dpp", "mdp3", "mmr", "oracle", "peaks", "q_frame", "random", "spans", "top_k", "uniform"]
SELECTORS = {name: selector_named(name) for name in NAMES}
RANKING = ["aks", "bolt", "dpp", "mdp3", "mmr", "peaks", "q_frame", "spans", "top_k"]  # those that look at scores
# All but the oracle, AKS and BOLT, which may return fewer frames or repeat one.
FILLING = ["dpp", "mdp3", "mmr", "peaks", "q_frame", "random", "spans", "top_k", "uniform"]

some_examples = settings(max_examples=50)
every_selector = pytest.mark.parametrize("name", NAMES)


@st.composite
def candidates(draw: st.DrawFn, max_frames: int = 45) -> Candidates:
    """Frames with many equal or with extreme scores and vectors."""
    n = draw(st.integers(0, max_frames))
    elements = draw(
        st.sampled_from([st.integers(-2, 2).map(float), st.floats(-1e308, 1e308), st.just(0.25), st.floats(0, 1)])
    )
    scores = draw(arrays(np.float64, n, elements=elements))
    vectors = draw(
        arrays(np.float64, (n, 3), elements=st.one_of(st.integers(-1, 1).map(float), st.floats(-1e308, 1e308)))
    )
    return Candidates.of(
        scores=scores, vectors=vectors, seconds=np.arange(n), moments=[[2.5, 7.0], [60.0, 61.0]], question_id="q"
    )


def test_the_selectors_are_those_in_the_folder() -> None:
    assert selector_names() == NAMES
    assert all(SELECTORS[name].name == name for name in NAMES)


@some_examples
@given(candidates(), st.integers(1, 50))
def test_selectors_return_at_most_k_ascending_positions(frames: Candidates, k: int) -> None:
    for name in NAMES:
        selector = SELECTORS[name]
        positions = selector(frames, k)
        assert positions.dtype == np.int64 and len(positions) <= k, name
        assert ((positions >= 0) & (positions < frames.n_frames)).all(), name
        assert (np.diff(positions) >= (0 if selector.repeats else 1)).all(), name
        assert selector(frames, k).tolist() == positions.tolist(), name
        if name in FILLING:
            assert len(positions) == min(k, frames.n_frames), name


@some_examples
@given(candidates(max_frames=20), st.integers(21, 40))
def test_all_frames_are_chosen_when_there_are_fewer_than_k(frames: Candidates, k: int) -> None:
    for name in [*RANKING, "random", "uniform"]:
        assert SELECTORS[name](frames, k).tolist() == list(range(frames.n_frames)), name


def test_only_bolt_may_repeat_a_frame() -> None:
    assert [name for name in NAMES if SELECTORS[name].repeats] == ["bolt"]
    assert SELECTORS["bolt"](Candidates.of(scores=[0.0, 9.0, 0.0, 0.0]), 3).tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", RANKING)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_is_refused_with_its_position(name: str, value: float) -> None:
    with pytest.raises(SevilaError, match=f"scores: {value} at 1; expected finite"):
        SELECTORS[name](Candidates.of(scores=[0.0, value, 1.0], vectors=np.eye(3)), 2)


def test_a_vector_that_is_not_finite_is_refused_with_its_position() -> None:
    with pytest.raises(SevilaError, match="vectors: nan at 1; expected finite"):
        Candidates.of(scores=[0.0, 1.0], vectors=[[1.0, 0.0], [0.0, float("nan")]])


def test_scores_and_vectors_of_different_frames_are_refused() -> None:
    with pytest.raises(SevilaError, match="3 by scores, 2 by vectors"):
        Candidates.of(scores=[0.0, 1.0, 2.0], vectors=np.eye(2))
    with pytest.raises(SevilaError, match=r"shape \(2, 2\); expected \[T\]"):
        Candidates.of(scores=np.eye(2))


@every_selector
@pytest.mark.parametrize("k", [0, -3])
def test_less_than_one_frame_is_refused(name: str, k: int) -> None:
    frames = Candidates.of(scores=[1.0], vectors=[[1.0]], seconds=[0.0], moments=[[0.0, 1.0]])
    with pytest.raises(SevilaError, match=f"k is {k}.*at least 1"):
        SELECTORS[name](frames, k)


@pytest.mark.parametrize("name", ["dpp", "mdp3", "mmr"])
def test_a_list_wise_selector_requires_vectors(name: str) -> None:
    with pytest.raises(SevilaError, match=f"{name}: needs a vector of each frame"):
        SELECTORS[name](Candidates.of(scores=[1.0, 2.0]), 1)


@pytest.mark.parametrize("name", ["random", "q_frame"])
def test_random_selections_depend_on_seed_and_question(name: str) -> None:
    selector, scores = SELECTORS[name], np.zeros(1000)

    def chosen(seed: int, question_id: str) -> list[int]:
        frames = Candidates.of(scores=scores, question_id=question_id)
        return selector(frames, 8, selector.options_from({"seed": seed})).tolist()

    assert chosen(0, "a") == chosen(0, "a")
    assert len({tuple(chosen(*each)) for each in [(0, "a"), (1, "a"), (0, "b")]}) == 3


def test_the_random_selector_keeps_its_draws() -> None:
    drawn = np.sort(np.random.default_rng([7, *b"CW_1_2"]).permutation(50)[:5])
    random = SELECTORS["random"]
    assert random(Candidates.of(50, "CW_1_2"), 5, random.options_from({"seed": 7})).tolist() == drawn.tolist()


@every_selector
def test_an_unknown_option_is_refused_with_the_known_options(name: str) -> None:
    with pytest.raises(RecipeError, match=rf"{name} has no option 't9'.*options of {name}: "):
        SELECTORS[name].options_from({"t9": 1})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("aks", {"t1": "high"}),
        ("aks", {"depth": -1}),
        ("aks", {"official": 1}),
        ("aks", {"t2": float("nan")}),
        ("bolt", {"power": 0}),
        ("dpp", {"relevance": 1.0}),
        ("mdp3", {"stretch": 0}),
        ("mdp3", {"scores_are": "logits"}),
        ("mmr", {"relevance": 1.5}),
        ("peaks", {"neighbours": -1}),
        ("q_frame", {"temperature": 0.0}),
        ("random", {"seed": -1}),
    ],
)
def test_an_option_with_an_invalid_value_is_refused_by_name(name: str, values: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=rf"{name}\.{next(iter(values))} is "):
        SELECTORS[name].options_from(values)


def test_options_of_another_selector_are_refused() -> None:
    with pytest.raises(SevilaError, match="expected AksOptions"):
        SELECTORS["aks"](Candidates.of(scores=[1.0]), 1, Options())
