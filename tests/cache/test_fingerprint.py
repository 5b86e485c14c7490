import math
import os
import subprocess
import sys
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


def test_a_list_is_hashed_as_one_though_a_library_made_it_a_mapping_too(monkeypatch: pytest.MonkeyPatch) -> None:
    value = [("a", None, 1.0), {"b": ()}]
    expected = fingerprint(value)
    monkeypatch.setattr("cache.fingerprint.Mapping", list | tuple | dict)
    assert fingerprint(value) == expected


def told_apart(value: object) -> object:
    """A value that is equal only to what means the same: 1, 1.0 and True differ, 0.0 and -0.0 too, lists and tuples do not."""
    if isinstance(value, dict):
        return "dict", frozenset((key, told_apart(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return "list", tuple(told_apart(item) for item in value)
    return type(value).__name__, repr(value)


@given(st.lists(plain_values, max_size=4))
def test_values_share_a_fingerprint_exactly_if_they_mean_the_same(values: list[object]) -> None:
    near = [*values, {}, [], "", None, 0, 0.0, -0.0, False, [None], [[]], {"": None}, "null", "[]", "0"]
    assert len({fingerprint(value) for value in near}) == len({told_apart(value) for value in near})


def test_fingerprint_is_the_same_in_every_process() -> None:
    value = {"b": [1.5, None, {"z": True, "a": "é"}], "a": {str(number): number for number in range(50)}}
    code = f"from cache.fingerprint import fingerprint; print(fingerprint({value!r}))"
    told = [
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True)
        for seed in ("1", "2")
    ]
    assert [each.stdout.decode().strip() for each in told] == [fingerprint(value)] * 2


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
