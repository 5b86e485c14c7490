"""How many threads and processes work: as many as there are cores, or one for a model so small that threads would wait."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Result = TypeVar("Result")

SMALL_PARAMETERS = 10_000_000  # the Q-Former of BLIP-2 has twenty times as many, that of the demo's world a hundredth


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def as_suits(n_parameters: int) -> Iterator[None]:
    """Compute on one thread in the block if a model is small; else on as many as torch takes.

    Threads wait for each other busily. Beside other programs they are not all at work at once, and a demo that takes four minutes
    on two idle cores took hours.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1 if n_parameters < SMALL_PARAMETERS else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def side_by_side(tasks: Sequence[Callable[[], Result]]) -> list[Result]:
    """Return what these return, each computed on a thread of its own: the bits are those of one after the other."""
    if len(tasks) == 1:
        return [tasks[0]()]
    with ThreadPoolExecutor(len(tasks)) as threads:
        return [future.result() for future in [threads.submit(task) for task in tasks]]
