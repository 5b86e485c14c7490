"""Validation of integer arguments of the Python interface."""

from __future__ import annotations

import operator
from typing import Any

from cache.errors import SevilaError


def whole_number(name: str, value: Any, at_least: int) -> int:
    """Return an integer value as int, also from numpy and torch; raise `SevilaError` if it is none or below `at_least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = at_least - 1
    if number < at_least:
        raise SevilaError(f"{name} is {value!r}; expected a whole number, at least {at_least}")
    return number
