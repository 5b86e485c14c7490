"""Hardware and peak memory of a build, as fields of a record."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pipeline.batching import tokens_suiting
from pipeline.engine.stage import RunContext
from pipeline.loaded_models import free_gpu_memory
from pipeline.memory import peak_memory_bytes, reset_peak_memory

MAX_BATCH_TOKENS = 1 << 19  # larger batches made no model here faster on an H100


def is_gpu(device: str) -> bool:
    """Return whether the device of a `RunContext` is a GPU on this machine."""
    if device != "auto":
        return device != "cpu"
    import torch  # here, as plans need it for nothing else

    return torch.cuda.is_available()


def batch_tokens_of(batch_tokens: int | Literal["auto"] | None, device: str) -> int | None:
    """Resolve "auto": the maximum on a GPU, and None, the default of the device, on a CPU.

    On a GPU, a batch that runs out of memory is halved, and its size is the limit of later batches (pipeline/memory.py). A CPU
    would exhaust the machine's memory first.
    """
    if batch_tokens != "auto":
        return batch_tokens
    return MAX_BATCH_TOKENS if is_gpu(device) else None


def tokens_at_once(run: RunContext) -> int:
    """Return the maximum number of tokens in a forward pass."""
    return tokens_suiting(run.torch_device()) if run.batch_tokens is None else run.batch_tokens


def processor_name() -> str:
    """Return the name of the processor, on Linux from /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def hardware_facts(gpu: bool, run: RunContext) -> dict[str, Any]:
    """Return a record's fields of the machine: host, device, and peak memory in bytes since `reset_peaks`.

    Args:
        gpu: whether the stage runs a model, on the run's device.
    """
    facts: dict[str, Any] = {"host": platform.node(), "device": "cpu", "peak_memory_bytes": peak_memory_bytes()}
    torch = sys.modules.get("torch")  # avoids the import in stages without torch
    # Avoids a CUDA context in a process that only publishes what others have built.
    if torch is not None and gpu and torch.cuda.is_initialized() and run.torch_device().startswith("cuda"):
        facts["device"] = f"{run.torch_device()} {torch.cuda.get_device_name(run.torch_device())}"
        facts["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated(run.torch_device())
    return facts


def reset_peaks(run: RunContext) -> None:
    """Reset the peak memory counters, and free GPU memory that earlier stages left in reference cycles."""
    reset_peak_memory()
    free_gpu_memory()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized() and run.torch_device().startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(run.torch_device())


def merged_facts(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the facts of several processes: the maximum of numbers, each distinct text once."""
    merged: dict[str, Any] = {}
    for name in dict.fromkeys(name for fields in facts for name in fields):
        values = [fields[name] for fields in facts if name in fields]
        merged[name] = max(values) if isinstance(values[0], int) else ", ".join(sorted(set(values)))
    return merged
