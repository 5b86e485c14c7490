"""The devices that torch has on this machine; `auto` is the first GPU, else the CPU."""

from __future__ import annotations

from cache.errors import SevilaError


def refuse_unknown_device(device: str) -> None:
    """Raise `SevilaError` for a device that torch does not have on this machine."""
    if device in ("auto", "cpu"):
        return
    import torch

    devices = ["auto", "cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if device not in devices and not (device == "cuda" and "cuda:0" in devices):
        raise SevilaError(f"device {device!r}: torch {torch.__version__} has {', '.join(devices)} here")


def torch_device(device: str) -> str:
    """Return torch's name of a device, with `auto` resolved."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
