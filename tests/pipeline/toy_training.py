"""A training without models: a small network with dropout learns to assign points of the plane to three classes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cache.store import Store
from pipeline.engine.snapshots import Snapshots
from pipeline.engine.stage import RunContext
from pipeline.training.task import MicroBatch, ReportStep, TrainingConfig, TrainingJob

N_SAMPLES, N_HELD_OUT = 23, 7
TINY = TrainingConfig(
    learning_rate=1e-2, warmup_steps=2, epochs=3, batch_size=5, micro_batch_size=2, held_out_percent=0, seed=1
)  # 5 batches an epoch, the last of 3 samples


class ToyTask:
    """Samples are points of the plane with one, two or three targets, as texts have different numbers of tokens."""

    judged_by = "accuracy"
    n_counts = 2
    n_samples = N_SAMPLES

    def __init__(self, dropout: float, micro_batch_size: int = TINY.micro_batch_size) -> None:
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.module = nn.Sequential(
                nn.Linear(2, 8), nn.LayerNorm(8), nn.GELU(), nn.Dropout(dropout), nn.Linear(8, 3)
            )
        rng = np.random.default_rng(0)
        self._points = torch.from_numpy(rng.normal(size=(N_SAMPLES + N_HELD_OUT, 2)).astype(np.float32))
        self._classes = (self._points[:, 0] > 0).long() + (self._points[:, 1] > 0).long()
        self._rows = micro_batch_size

    def cut(self, samples: Sequence[int], epoch: int) -> list[MicroBatch]:
        cuts = range(0, len(samples), self._rows)
        parts = [samples[start : start + self._rows] for start in cuts]
        return [MicroBatch(part, sum(number % 3 + 1 for number in part), len(part)) for part in parts]

    def validation(self) -> list[MicroBatch]:
        return self.cut(range(N_SAMPLES, N_SAMPLES + N_HELD_OUT), 0)

    def load(self, micro_batch: MicroBatch) -> list[int]:
        return list(micro_batch.rows)

    def loss(self, data: list[int]) -> Tensor:
        losses = functional.cross_entropy(self.module(self._points[data]), self._classes[data], reduction="none")
        return (losses * torch.tensor([number % 3 + 1 for number in data])).sum()

    def judge(self, data: list[int]) -> Tensor:
        right = self.module(self._points[data]).argmax(dim=1) == self._classes[data]
        return torch.tensor([len(data), int(right.sum())])

    def figures(self, counts: Sequence[float]) -> dict[str, float]:
        return {"accuracy": counts[1] / counts[0]}

    def names(self, samples: Sequence[int]) -> list[str]:
        return [f"point {number}" for number in samples]


def with_dropout(micro_batch_size: int, run: RunContext) -> ToyTask:
    return ToyTask(0.5, micro_batch_size)


def without_dropout(micro_batch_size: int, run: RunContext) -> ToyTask:
    return ToyTask(0.0, micro_batch_size)


class BrokenPoints(ToyTask):
    """Some points have no finite loss for any weights."""

    def __init__(self, broken: Sequence[int], micro_batch_size: int) -> None:
        super().__init__(0.5, micro_batch_size)
        self._points[list(broken)] = torch.nan


def with_a_broken_point(micro_batch_size: int, run: RunContext) -> ToyTask:
    return BrokenPoints([4], micro_batch_size)


def with_broken_points_only(micro_batch_size: int, run: RunContext) -> ToyTask:
    return BrokenPoints(range(N_SAMPLES), micro_batch_size)


class NeedsSmallMicroBatches(ToyTask):
    """Has memory for two samples at a time."""

    def loss(self, data: list[int]) -> Tensor:
        if len(data) > 2:
            raise torch.OutOfMemoryError("tried to allocate more than there is")
        return super().loss(data)


def with_little_memory(micro_batch_size: int, run: RunContext) -> ToyTask:
    return NeedsSmallMicroBatches(0.0, micro_batch_size)


class DiesOnce(ToyTask):
    """The second of two processes is killed in its seventh step, once per marker file."""

    def __init__(self, marker: Path, micro_batch_size: int) -> None:
        super().__init__(0.5, micro_batch_size)
        self._marker = marker
        self._losses = 0

    def loss(self, data: list[int]) -> Tensor:
        self._losses += 1
        if self._losses == 7 and os.environ["RANK"] == "1" and not self._marker.exists():
            self._marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(data)


class DiesOnceFactory:
    """Creates `DiesOnce`; can be pickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __call__(self, micro_batch_size: int, run: RunContext) -> ToyTask:
        return DiesOnce(self._marker, micro_batch_size)


@contextmanager
def silent(name: str, total: int, done: int) -> Iterator[ReportStep]:
    yield lambda step, figures: None


def job(folder: Path, make_task: Any = with_dropout, cfg: TrainingConfig = TINY, **run: Any) -> TrainingJob:
    context = RunContext(Store(folder / "store"), device="cpu", **run)
    return TrainingJob(
        "toy",
        "toy-v1-0",
        cfg,
        context,
        Snapshots(folder / "snapshots"),
        partial(make_task, cfg.micro_batch_size),
        silent,
    )
