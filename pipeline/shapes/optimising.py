"""The optimisation loop of the three phases of the Shapes backbone; the chain's trainings use `pipeline/training/loop.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import get_cosine_schedule_with_warmup

WARMUP_STEPS, MAX_GRADIENT_NORM, WEIGHT_DECAY = 40, 1.0, 0.01

ShowStep = Callable[[int, dict[str, float]], None]  # steps done, figures of the last one


def optimise(groups: list[dict[str, Any]], steps: int, backward: Callable[[int], float], show: ShowStep) -> None:
    """Take `steps` AdamW steps; `backward(step)` computes the gradients of one batch, and returns its loss."""
    optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
    schedule = get_cosine_schedule_with_warmup(optimizer, min(WARMUP_STEPS, steps // 4), steps)
    parameters = [parameter for group in groups for parameter in group["params"]]
    for step in range(steps):
        loss = backward(step)
        nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        show(step + 1, {"loss": loss})
