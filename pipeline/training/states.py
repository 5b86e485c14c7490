"""Reading and writing the state of a training, from which it resumes after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def read_state(path: Path) -> dict[str, Any]:
    """Return a state with its tensors on the CPU; unpickles tensors and plain values only."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def write_state(state: dict[str, Any], path: Path) -> None:
    """Write a state; raise `OSError` if the disk is full or fails."""
    try:
        with path.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:  # torch raises it for any error of the file, such as a full disk
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
