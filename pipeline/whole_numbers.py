"""Numbers that count, as users of Python give them."""

from __future__ import annotations

import operator
from typing import Any

from cache.errors import SevilaError


def whole_number(name: str, value: Any, at_least: int) -> int:
    """Return a number that can count as an int, numpy's and torch's too; raises `SevilaError` for what cannot."""
    try:
        number = operator.index(value)
    except TypeError:
        number = at_least - 1
    if number < at_least:
        raise SevilaError(f"{name} is {value!r}; a whole number, at least {at_least}, was wanted")
    return number
