"""Numbers of threads and processes: as many as cores, or one thread for models too small to gain from several."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Result = TypeVar("Result")

SMALL_PARAMETERS = 10_000_000  # BLIP-2's Q-Former has twenty times as many, the demo's a hundredth


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def as_suits(n_parameters: int) -> Iterator[None]:
    """Use one thread in the block if a model is small, else torch's number.

    Threads spin while they wait for each other. With other programs on the cores, a demo that takes four minutes on two idle
    cores took hours.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1 if n_parameters < SMALL_PARAMETERS else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def side_by_side(tasks: Sequence[Callable[[], Result]]) -> list[Result]:
    """Run each task in a thread and return their results, which are bit-identical to sequential ones."""
    if len(tasks) == 1:
        return [tasks[0]()]
    with ThreadPoolExecutor(len(tasks)) as threads:
        return [future.result() for future in [threads.submit(task) for task in tasks]]
