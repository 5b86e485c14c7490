"""Handling of out-of-memory errors by smaller batches or a clear message, and measurement of peak memory."""

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
from pipeline.loaded_models import drop_oldest, free_gpu_memory

log = logging.getLogger("sevila")

Result = TypeVar("Result")

# Texts in a RuntimeError: torch.OutOfMemoryError covers only torch's CUDA allocator.
OUT_OF_MEMORY = ("out of memory", "_STATUS_ALLOC_FAILED", "not enough memory", "can't allocate memory")
ADVICE = (
    "use a device with more memory, end other programs that use it, or set precision to bfloat16 where it is float32 (another "
    "artifact)"
)


class _OneRowError(MemoryError):
    """Out of memory with a single row; raised by a nested `Halving` to the enclosing one."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the device or machine is out of memory, including those of CUDA's libraries."""
    torch = sys.modules.get("torch")  # avoids the import
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


_nested: ContextVar[bool] = ContextVar("nested", default=False)


class Halving:
    """Computes batches of rows in parts; a part that runs out of memory is halved and retried.

    Later batches are cut into as many parts from the start. If a nested `Halving` runs out of memory with one row, the enclosing
    one halves its batch.
    """

    def __init__(self, name: str) -> None:
        """Args: `name` is the stage's name for log messages."""
        self._name = name
        self._n_parts = 1

    def __call__(self, compute: Callable[[Any], Result], rows: Any) -> list[Result]:
        """Return the results of `compute` for the parts of `rows` (anything with a length and slicing), in order.

        Raises:
            MachineError: out of memory with a single row.
        """
        is_nested, n_parts = _nested.get(), self._n_parts
        token = _nested.set(True)
        try:
            return self._results(compute, rows)
        except _OneRowError as error:
            problem = str(error)
            if is_nested:
                self._n_parts = n_parts  # the enclosing batch is too large, not the rows of this one
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
            # Outside the handler, in which the error's traceback still references intermediate tensors.
            free_gpu_memory()
            if drop_oldest():
                continue
            if len(part) == 1:
                raise _OneRowError(problem)
            size = -(-len(part) // 2)
            self._n_parts *= 2
            log.warning(
                "%s: out of memory with %d rows at once, continuing with %d: %s", self._name, len(part), size, problem
            )
        return results


@contextmanager
def memory_errors(name: str) -> Iterator[None]:
    """Convert out-of-memory errors of the block, such as those of loading a model, into a message for the user.

    Raises:
        MachineError: the block ran out of memory.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        problem = str(error).strip().split("\n")[0]
        raise MachineError(f"{name}: out of memory: {problem}; finished shards stay. {ADVICE}") from error


def reset_peak_memory() -> None:
    """Reset the peak that `peak_memory_bytes` returns, on Linux; a no-op elsewhere."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes() -> int:
    """Return the peak memory of this process in bytes since `reset_peak_memory`, or since its start if not on Linux."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes
