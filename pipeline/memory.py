"""Memory: smaller batches where it does not suffice, then a sentence that says what to change; and how much was held."""

from __future__ import annotations

import logging
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from cache.errors import MachineError

log = logging.getLogger("sevila")

Result = TypeVar("Result")

# Of a RuntimeError: torch has a class of its own only for its CUDA allocator.
OUT_OF_MEMORY = ("out of memory", "_STATUS_ALLOC_FAILED", "not enough memory", "can't allocate memory")
ADVICE = (
    "use a device with more memory, end other programs that use it, or set precision to bfloat16 where it is float32 (another "
    "artifact)"
)


class _OneRowError(MemoryError):
    """Memory does not suffice for one row: what a `Halving` says to the one around it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had no memory left: torch's own error, and the ways in which CUDA's libraries say it."""
    torch = sys.modules.get("torch")  # what has not loaded it cannot have raised it
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


_nested: ContextVar[bool] = ContextVar("nested", default=False)


class Halving:
    """Computes batches of rows in as few parts as memory allows; a part for which it does not suffice is halved.

    What was too much once is not tried again: later batches are cut into as many parts. Where what computes halves too, and
    one row of its own is too much, the batch around it is halved.
    """

    def __init__(self, name: str) -> None:
        """Args: `name` of the stage, for its log."""
        self._name = name
        self._n_parts = 1

    def __call__(self, compute: Callable[[Any], Result], rows: Any) -> list[Result]:
        """Return what `compute` gives for the parts of `rows` (anything that has a length and slices), in their order.

        Raises:
            MachineError: memory does not suffice for one row.
        """
        is_nested, n_parts = _nested.get(), self._n_parts
        token = _nested.set(True)
        try:
            return self._results(compute, rows)
        except _OneRowError as error:
            problem = str(error)
            if is_nested:
                self._n_parts = n_parts  # too much was what is around it, not its own rows
                raise
        finally:
            _nested.reset(token)
        raise MachineError(f"{self._name}: out of memory with a single row: {problem}; {ADVICE}")

    def _results(self, compute: Callable[[Any], Result], rows: Any) -> list[Result]:
        results: list[Result] = []
        start, size = 0, -(-len(rows) // self._n_parts)
        while start < len(rows):
            part = rows[start : start + size]
            try:
                results.append(compute(part))
                start += len(part)
                continue
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                problem = str(error).strip().split("\n")[0]
            # Only here: until its handler ends, the error keeps all that was computed on the way to it.
            _free()
            if len(part) == 1:
                raise _OneRowError(problem)
            size = -(-len(part) // 2)
            self._n_parts *= 2
            log.warning(
                "%s: out of memory with %d rows at once, going on with %d: %s", self._name, len(part), size, problem
            )
        return results


@contextmanager
def memory_errors(name: str) -> Iterator[None]:
    """Turn what is raised where memory does not suffice, for a model for instance, into a sentence for the user.

    Raises:
        MachineError: instead of torch's own error.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        problem = str(error).strip().split("\n")[0]
        raise MachineError(f"{name}: out of memory: {problem}; finished shards stay. {ADVICE}") from error


def reset_peak_memory() -> None:
    """Have `peak_memory_bytes` count from now on, where the system can (Linux); else it goes on counting."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes() -> int:
    """Return the most memory that this process has held since `reset_peak_memory`; where that cannot be, since it began."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes


def _free() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
