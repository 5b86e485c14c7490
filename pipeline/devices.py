"""The devices that torch has on this machine, and their free memory; `auto` is the first GPU, else the CPU."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from cache.errors import SevilaError

CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


class DeviceMemory(NamedTuple):
    """Memory that new tensors of this process can take, and the whole memory, in bytes."""

    free: int
    total: int


def refuse_unknown_device(device: str) -> None:
    """Raise `SevilaError` for a device that torch does not have on this machine."""
    if device in ("auto", "cpu"):
        return
    import torch

    devices = ["auto", "cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if device not in devices and not (device == "cuda" and "cuda:0" in devices):
        raise SevilaError(f"device {device!r}: torch {torch.__version__} has {', '.join(devices)} here")


def torch_device(device: str) -> str:
    """Return torch's name of a device, with `auto` resolved; from then on this process computes float32 without TF32."""
    import torch

    torch.backends.cudnn.allow_tf32 = False  # torch allows it in convolutions, such as a ViT's patch embedding
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def device_memory(device: str) -> DeviceMemory:
    """Return the memory of a torch device; that of the CPU is the machine's, or the limit of a container."""
    if device.startswith("cuda"):
        import torch

        free, total = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return DeviceMemory(free + cached, total)
    import psutil

    machine = psutil.virtual_memory()
    memory = DeviceMemory(machine.available, machine.total)
    with suppress(OSError, ValueError):  # no such file, or "max"
        limit = int(CONTAINER_LIMIT.read_text())
        return DeviceMemory(min(memory.free, limit - psutil.Process().memory_info().rss), min(memory.total, limit))
    return memory
