"""Children that exit like kill -9 before their n-th operation that writes to disk or steps the optimizer."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch


def run_to_each(points: Sequence[str], work: Callable[[], object]) -> None:
    """Fork a child for each point, and one that runs to the end, and print their exit statuses."""
    for point in [*map(int, points), 10**9]:
        pid = os.fork()
        if pid == 0:
            _exit_before(point)
            work()
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _exit_before(point: int) -> None:
    remaining = point

    def counted(operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            nonlocal remaining
            remaining -= 1
            if remaining == 0:
                os._exit(9)
            return operation(*arguments, **options)

        return run

    for name in ("replace", "rename", "fsync", "unlink", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))
    torch.optim.AdamW.step = counted(torch.optim.AdamW.step)  # type: ignore[method-assign]
