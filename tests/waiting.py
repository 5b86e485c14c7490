"""Waiting for a condition of another process."""

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def wait_until(
    condition: Callable[[], Value],
    seconds: float = 600.0,
    every_seconds: float = 0.02,
    problem: Callable[[], object] = lambda: None,
) -> Value:
    """Call `condition` until its value is true, and return this value; fails after `seconds`, or with a `problem`."""
    give_up = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < give_up, f"the condition was not met within {seconds:g} s"
        assert not (reason := problem()), reason
        time.sleep(every_seconds)
    return value
