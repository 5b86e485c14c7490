"""Asynchronous copies between host and device; on a CPU nothing is copied."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def to_device(array: np.ndarray, device: str) -> Tensor:
    """Return an array on the device; for a GPU through pinned memory, so that the copy is queued like a kernel."""
    import torch

    tensor = torch.from_numpy(array)
    return tensor if device == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def to_host(*tensors: Tensor) -> tuple[list[Tensor], Callable[[], None]]:
    """Return the tensors on the host, and a function that waits until they have arrived."""
    import torch

    if all(tensor.device.type == "cpu" for tensor in tensors):
        return list(tensors), lambda: None
    pinned = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for here, there in zip(pinned, tensors, strict=True):
        here.copy_(there, non_blocking=True)
    return pinned, torch.cuda.current_stream(tensors[0].device).record_event().synchronize
