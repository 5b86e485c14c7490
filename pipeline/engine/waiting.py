"""How long the models of a process wait for what they compute on, which progress says where they run on a GPU."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


class _Waited:
    """Seconds of this process until now, and how many inputs were waited for."""

    seconds = 0.0
    n_items = 0


def model_input(items: Iterable[Item]) -> Iterator[Item]:
    """Yield what a model computes on next, counting how long it waits for it."""
    iterator = iter(items)
    while True:
        start = time.monotonic()
        try:
            item = next(iterator)
        except StopIteration:
            return
        _Waited.seconds += time.monotonic() - start
        _Waited.n_items += 1
        yield item


class Waiting:
    """The share of the time from now on that is spent waiting for input."""

    def __init__(self) -> None:
        self._seconds, self._n_items = _Waited.seconds, _Waited.n_items

    def words(self, seconds: Callable[[], float]) -> str:
        """Return `GPU waits 12 %`, of the seconds since then; empty where no model has run, or none on a GPU."""
        torch = sys.modules.get("torch")
        if _Waited.n_items == self._n_items or torch is None or not torch.cuda.is_initialized():
            return ""
        share = (_Waited.seconds - self._seconds) / max(seconds(), 1e-3)
        return f"GPU waits {100 * min(1.0, share):.0f} %"
