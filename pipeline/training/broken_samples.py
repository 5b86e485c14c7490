"""Training samples whose loss is not finite with the initial weights, which no learning rate would change."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch

from cache.errors import SevilaError
from pipeline.training.task import Task

log = logging.getLogger("sevila")

MAX_BROKEN = 16  # stop if this many samples, and no others yet, have no finite loss


class BrokenSamples:
    """The samples that a training leaves out. Each process checks a batch itself, and only after a loss that is not finite."""

    def __init__(self, name: str, task: Task, autocast: Callable[[], AbstractContextManager[None]]) -> None:
        """Copy the initial weights of `task`, which must not have been trained yet."""
        self._name, self._task, self._autocast = name, task, autocast
        self._initial = {name: tensor.detach().cpu().clone() for name, tensor in task.module.state_dict().items()}
        self.left_out: set[int] = set()

    def without(self, batch: Sequence[int]) -> list[int]:
        """Return a batch without the samples left out."""
        return [number for number in batch if number not in self.left_out]

    def look(self, batch: Sequence[int], epoch: int, any_trained: bool) -> bool:
        """Leave out the broken samples of a batch; return whether there are any.

        Raises:
            SevilaError: no step was done yet, and all samples checked so far are broken.
        """
        broken = self._broken(batch, epoch)
        if not broken:
            return False
        self.left_out.update(broken)
        names = ", ".join(self._task.names(broken))
        is_limit = len(self.left_out) >= min(MAX_BROKEN, self._task.n_samples)
        if len(broken) == len(batch) and not any_trained and is_limit:
            raise SevilaError(
                f"{self._name}: no finite loss before any step, with the weights as given, for {names}; weights or features are "
                "broken: give others"
            )
        log.warning("%s: left out, because the weights as given have no finite loss for them: %s", self._name, names)
        return True

    def _broken(self, batch: Sequence[int], epoch: int) -> list[int]:
        module = self._task.module
        current = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        module.load_state_dict(self._initial)
        module.eval()
        try:
            return [number for number in batch if not self._is_finite(number, epoch)]
        finally:
            module.load_state_dict(current)
            module.train()

    def _is_finite(self, number: int, epoch: int) -> bool:
        with torch.no_grad(), self._autocast():
            losses = [self._task.loss(self._task.load(micro)) for micro in self._task.cut([number], epoch)]
        return all(bool(loss.isfinite()) for loss in losses)
