"""Time that the models of a process wait for input, which progress shows for models on a GPU."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


class _Totals:
    """Totals of this process: seconds waited, and number of inputs."""

    seconds = 0.0
    n_items = 0


def model_input(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items that a model computes on, and measure the time it waits for each."""
    iterator = iter(items)
    while True:
        start = time.monotonic()
        try:
            item = next(iterator)
        except StopIteration:
            return
        _Totals.seconds += time.monotonic() - start
        _Totals.n_items += 1
        yield item


class InputWait:
    """The share of time spent waiting for input since this was created."""

    def __init__(self) -> None:
        self._seconds, self._n_items = _Totals.seconds, _Totals.n_items

    def words(self, seconds: Callable[[], float]) -> str:
        """Return text such as `GPU waits 12 %`, relative to `seconds()`; empty if no model has run on a GPU."""
        torch = sys.modules.get("torch")
        if _Totals.n_items == self._n_items or torch is None or not torch.cuda.is_initialized():
            return ""
        share = (_Totals.seconds - self._seconds) / max(seconds(), 1e-3)
        return f"GPU waits {100 * min(1.0, share):.0f} %"
