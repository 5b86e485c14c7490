import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets.question import Question, clip_id

seconds = st.none() | st.floats(min_value=0, allow_infinity=False, allow_nan=False)


def test_the_clip_id_of_a_whole_video_is_its_video_id() -> None:
    question = Question("q", "abc", "why?", ("a", "b"), 0, "", None, None)
    assert question.clip_id == "abc"


def test_the_clip_id_contains_the_bounds() -> None:
    assert Question("q", "abc", "why?", ("a", "b"), 0, "", 2.5, 11.2).clip_id == "abc[2.5-11.2]"
    assert clip_id("abc", 2.5, None) == "abc[2.5-]"
    assert clip_id("abc", None, 11.2) == "abc[-11.2]"


def test_equal_bounds_give_equal_clip_ids() -> None:
    assert clip_id("abc", 0, 7) == clip_id("abc", -0.0, 7.0) == "abc[0.0-7.0]"


@pytest.mark.parametrize("bound", [math.nan, math.inf])
def test_a_bound_that_is_not_finite_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        clip_id("abc", bound, None)


@given(seconds, seconds, seconds, seconds)
def test_clip_ids_are_equal_exactly_when_their_bounds_are(a: float, b: float, c: float, d: float) -> None:
    assert (clip_id("abc", a, b) == clip_id("abc", c, d)) == ((a, b) == (c, d))
