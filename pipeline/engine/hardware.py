"""On what something was made, and how much memory that took: fields of a record."""

from __future__ import annotations

import gc
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pipeline.batching import tokens_suiting
from pipeline.engine.stage import RunContext
from pipeline.memory import peak_memory_bytes, reset_peak_memory

MOST_BATCH_TOKENS = 1 << 19  # beyond, no model here became faster on an H100


def is_gpu(device: str) -> bool:
    """Whether a device, as of `RunContext`, is a GPU here."""
    if device != "auto":
        return device != "cpu"
    import torch  # here, as little else of a plan needs it

    return torch.cuda.is_available()


def batch_tokens_of(wanted: int | Literal["auto"] | None, device: str) -> int | None:
    """Return the tokens of a forward pass; auto: on a GPU most of all, of which each model's first batches find what fits.

    What does not fit is halved, and not tried again (pipeline/memory.py). A CPU has no such limit before the machine stops: there
    it is what suits it, None.
    """
    if wanted != "auto":
        return wanted
    return MOST_BATCH_TOKENS if is_gpu(device) else None


def tokens_at_once(run: RunContext) -> int:
    """Return the tokens that a forward pass may hold."""
    return tokens_suiting(run.torch_device()) if run.batch_tokens is None else run.batch_tokens


def hardware_facts(gpu: bool, run: RunContext) -> dict[str, Any]:
    """Return what a record says of the machine: host, device, and the peaks since `reset_peaks`.

    Args:
        gpu: this process has run a model, on the run's device.
    """
    facts: dict[str, Any] = {"host": platform.node(), "device": "cpu", "peak_memory_bytes": peak_memory_bytes()}
    torch = sys.modules.get("torch")  # a stage that did not need torch must not pay for its import
    # Nor take memory of a GPU, in a process that only publishes what others have made on theirs.
    if torch is not None and gpu and torch.cuda.is_initialized() and run.torch_device().startswith("cuda"):
        facts["device"] = f"{run.torch_device()} {torch.cuda.get_device_name(run.torch_device())}"
        facts["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated(run.torch_device())
    return facts


def reset_peaks(run: RunContext) -> None:
    """Have peak memory count from now on, and give back what the stage before held in cycles on a GPU: whole models."""
    reset_peak_memory()
    free_gpu_memory()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized() and run.torch_device().startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(run.torch_device())


def free_gpu_memory() -> None:
    """Give back to the GPU what nothing holds any more but cycles and torch's own cache, so that other processes have it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def merged_facts(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the facts of several processes as one: every name once, the most bytes."""
    merged: dict[str, Any] = {}
    for name in dict.fromkeys(name for fields in facts for name in fields):
        values = [fields[name] for fields in facts if name in fields]
        merged[name] = max(values) if isinstance(values[0], int) else ", ".join(sorted(set(values)))
    return merged
