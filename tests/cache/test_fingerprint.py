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
def test_key_order_does_not_change_the_fingerprint(value: object) -> None:
    assert fingerprint({"a": value, "b": 1}) == fingerprint({"b": 1, "a": value})


@given(plain_values, plain_values)
def test_different_canonical_texts_have_different_fingerprints(left: object, right: object) -> None:
    assert (canonical(left) == canonical(right)) == (fingerprint(left) == fingerprint(right))


def test_a_list_registered_as_a_mapping_is_hashed_as_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    value = [("a", None, 1.0), {"b": ()}]
    expected = fingerprint(value)
    monkeypatch.setattr("cache.fingerprint.Mapping", list | tuple | dict)
    assert fingerprint(value) == expected


def equivalence_key(value: object) -> object:
    """Return equal keys for equivalent values only: 1, 1.0 and True differ, so do 0.0 and -0.0; a list equals a tuple."""
    if isinstance(value, dict):
        return "dict", frozenset((key, equivalence_key(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return "list", tuple(equivalence_key(item) for item in value)
    return type(value).__name__, repr(value)


@given(st.lists(plain_values, max_size=4))
def test_only_equivalent_values_share_a_fingerprint(values: list[object]) -> None:
    numbers = [0, 0.0, -0.0, False, 1, 1.0, True]
    similar = [*values, *numbers, {}, [], "", None, [None], [[]], {"": None}, "null", "[]", "0"]
    assert len({fingerprint(value) for value in similar}) == len({equivalence_key(value) for value in similar})


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    value = {"b": [1.5, None, {"z": True, "a": "é"}], "a": {str(number): number for number in range(50)}}
    code = f"from cache.fingerprint import fingerprint; print(fingerprint({value!r}))"
    outputs = [
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True)
        for seed in ("1", "2")
    ]
    assert [output.stdout.decode().strip() for output in outputs] == [fingerprint(value)] * 2


def test_the_fingerprint_of_a_known_value_is_unchanged() -> None:
    # SHA-256 of '{"k":4,"x":[1.5,null,"é"]}', computed with sha256sum: a change here would orphan every stored artifact.
    assert fingerprint({"x": (1.5, None, "é"), "k": 4}) == "93cdc79fca6a8285411a"


@pytest.mark.parametrize(
    ("value", "message"),
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
def test_an_unstable_value_is_refused_with_its_location_and_type(value: object, message: str) -> None:
    with pytest.raises(FingerprintError) as caught:
        canonical({"a": [0, value]}, "config")
    assert message in str(caught.value) and "config.a[1]" in str(caught.value)
