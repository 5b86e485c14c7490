import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import FingerprintError
from cache.fingerprint import canonical, fingerprint

plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(plain_values)
def test_same_value_has_same_fingerprint_whatever_the_order_of_keys(value: object) -> None:
    assert fingerprint({"a": value, "b": 1}) == fingerprint({"b": 1, "a": value})


@given(plain_values, plain_values)
def test_different_canonical_texts_have_different_fingerprints(left: object, right: object) -> None:
    assert (canonical(left) == canonical(right)) == (fingerprint(left) == fingerprint(right))


def test_one_true_and_one_point_zero_are_three_values() -> None:
    assert len({fingerprint(1), fingerprint(True), fingerprint(1.0)}) == 3


def test_fingerprint_is_frozen() -> None:
    # SHA-256 of '{"k":4,"x":[1.5,null,"é"]}', computed with sha256sum: a change here would orphan every stored artifact.
    assert fingerprint({"x": (1.5, None, "é"), "k": 4}) == "93cdc79fca6a8285411a"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (math.nan, "config.a[1] is nan"),
        (math.inf, "inf"),
        (Path("/data"), "name the data in the recipe"),
        ({1, 2}, "builtins.set"),
        (np.float64(1.0), "numpy.float64"),
        (len, "builtin_function_or_method"),
        ({1: 2}, "keys must be str"),
    ],
)
def test_unstable_values_are_refused_by_place_and_type(value: object, told: str) -> None:
    with pytest.raises(FingerprintError) as caught:
        canonical({"a": [0, value]}, "config")
    assert told in str(caught.value) and "config.a[1]" in str(caught.value)
