"""The training loop, which every process of a training runs; the task defines module, samples and loss (`task.py`)."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers.optimization import get_cosine_schedule_with_warmup

from cache.errors import SevilaError
from pipeline.engine.input_wait import model_input
from pipeline.inference.streams import read_ahead
from pipeline.training.broken_samples import BrokenSamples
from pipeline.training.states import read_state, write_state
from pipeline.training.task import ReportStep, Task, TrainingJob
from pipeline.training.tensorboard import WriteEvents, events_writer

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger("sevila")

MAX_NAMES = 8  # of samples in an error message


@dataclass(frozen=True, eq=False)
class _Batch:
    """The samples of one optimizer step, with the numbers of target tokens and frames of all its micro-batches."""

    samples: list[int]
    n_targets: int
    n_frames: int


_LoadedMicroBatch = tuple[_Batch, int, Any]  # (batch, number of the micro-batch within it, data)


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW's parameter groups: no weight decay for one-dimensional parameters (paper table 11)."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.dim() > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.dim() <= 1], "weight_decay": 0.0},
    ]


def batches_of(n_samples: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return an epoch's batches: all samples, shuffled by (seed, epoch); the last batch may be smaller."""
    order = np.random.default_rng([seed, epoch]).permutation(n_samples).tolist()
    return [order[start : start + batch_size] for start in range(0, n_samples, batch_size)]


class Loop:
    """The state of a training in one process, and its training, validation and checkpoint steps."""

    def __init__(self, job: TrainingJob, task: Task, accelerator: Accelerator) -> None:
        self.job, self.cfg, self.task, self.accelerator = job, job.cfg, task, accelerator
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.parameters = [parameter for parameter in task.module.parameters() if parameter.requires_grad]
        groups = decay_groups(task.module, self.cfg.weight_decay)
        fused = True if accelerator.device.type == "cuda" else None
        self.optimizer = torch.optim.AdamW(groups, lr=self.cfg.learning_rate, betas=(0.9, 0.999), fused=fused)
        self.steps_an_epoch = math.ceil(task.n_samples / self.cfg.batch_size)
        self.n_steps = self.steps_an_epoch * self.cfg.epochs
        self.scheduler = get_cosine_schedule_with_warmup(self.optimizer, self.cfg.warmup_steps, self.n_steps)
        self.step = self.epoch = self.batch = 0
        self.curves: list[tuple[int, int, float, float, float, float]] = []
        self.validation: list[tuple[int, int, str, float]] = []
        self.best: dict[str, Any] = {}
        self.broken = BrokenSamples(job.name, task, accelerator.autocast)
        self.saved_at, self.saved_step = time.monotonic(), 0

    def run(self) -> None:
        """Train to the end, resuming from the newest saved state."""
        state = self.job.snapshots.newest(read_state)
        if state is not None:
            self._restore(state)
        self._log_start()
        self.task.module.train()
        with self._report() as report, events_writer(self.job, self.step, self.rank) as write_events:
            while self.epoch < self.cfg.epochs:
                while self.batch < self.steps_an_epoch:
                    self._train_epoch(report, write_events)
                self._validate(write_events)
                self.epoch, self.batch = self.epoch + 1, 0
                self._save()
        self.accelerator.wait_for_everyone()

    def _train_epoch(self, report: ReportStep, write_events: WriteEvents) -> None:
        """Train to the end of the epoch, or to a batch with broken samples, after which the batches read ahead are stale."""
        batches = batches_of(self.task.n_samples, self.cfg.batch_size, self.cfg.seed, self.epoch)[self.batch :]
        with closing(read_ahead(self._loaded(batches), depth=1)) as loaded:
            not_finite = self._train_batches(model_input(loaded), report, write_events)
        if not_finite is not None:
            samples, loss, norm = not_finite
            if not self.broken.look(samples, self.epoch, bool(self.curves)):
                raise self._not_finite(samples, loss, norm)

    def _loaded(self, batches: list[list[int]]) -> Iterator[_LoadedMicroBatch]:
        """Yield this process' micro-batches of each batch, in order; for a batch without any, one item with data None."""
        for candidates in batches:
            samples = self.broken.without(candidates)
            micro_batches = self.task.cut(samples, self.epoch)
            batch = _Batch(
                samples,
                sum(micro_batch.n_targets for micro_batch in micro_batches),
                sum(micro_batch.n_frames for micro_batch in micro_batches),
            )
            numbers = range(self.rank, len(micro_batches), self.world)
            for number in numbers:
                yield batch, number, self.task.load(micro_batches[number])
            if not numbers:
                yield batch, 0, None

    def _train_batches(
        self, loaded: Iterator[_LoadedMicroBatch], report: ReportStep, write_events: WriteEvents
    ) -> tuple[list[int], float, float] | None:
        """Do one step per batch; stop at a loss or gradient that is not finite and return (samples, loss, gradient norm)."""
        last = time.perf_counter()
        for batch, micro_batches in groupby(loaded, key=itemgetter(0)):
            if not batch.samples:
                self.optimizer.zero_grad()
                self.optimizer.step()  # a no-op without gradients; the scheduler warns if it steps before the optimizer
                self._next_step()
                continue
            loss, norm = self._gradient(batch, micro_batches)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                return batch.samples, loss, norm
            self.optimizer.step()
            now = time.perf_counter()
            rate, last = batch.n_frames / (now - last), now
            learning_rate = self.scheduler.get_last_lr()[0]
            self._next_step()
            self.curves.append((self.step, self.epoch, loss, learning_rate, norm, rate))
            figures = {"loss": loss, "frames_per_second": rate}
            report(self.step, figures)
            write_events(self.step, figures | {"learning_rate": learning_rate, "gradient_norm": norm})
            is_due = time.monotonic() - self.saved_at >= self.job.run.checkpoint_minutes * 60
            if self.batch < self.steps_an_epoch and is_due:
                self._save()
        return None

    def _next_step(self) -> None:
        self.scheduler.step()
        self.step, self.batch = self.step + 1, self.batch + 1

    def _gradient(self, batch: _Batch, micro_batches: Iterable[_LoadedMicroBatch]) -> tuple[float, float]:
        """Compute the gradient of a batch from the micro-batches of all processes; return loss and gradient norm."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            else:
                parameter.grad.zero_()
        total = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        for _, number, data in micro_batches:
            if data is None:
                continue
            torch.manual_seed(_seed(self.cfg.seed, self.step, number))
            with self.accelerator.autocast():
                loss = self.task.loss(data)
            self.accelerator.backward(loss / batch.n_targets)
            total += loss.detach()
        if self.world > 1:
            total = self._reduced(total)
        max_norm = self.cfg.clip_gradient_norm or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, max_norm, foreach=None))
        return float(total) / batch.n_targets, norm

    def _reduced(self, total: Tensor) -> Tensor:
        """Sum the gradients over all processes in place, in one all-reduce; return the sum of `total`.

        DistributedDataParallel would reduce in every backward pass, and need equally many of them in every process.
        """
        summed = self.accelerator.reduce(torch.cat([parameter.grad.flatten() for parameter in self.parameters]), "sum")  # type: ignore[union-attr]
        sizes = [parameter.numel() for parameter in self.parameters]
        for parameter, part in zip(self.parameters, summed.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        reduced: Tensor = self.accelerator.reduce(total, "sum")
        return reduced

    def _validate(self, write_events: WriteEvents) -> None:
        held_out = self.task.validation()
        if not held_out:
            return
        micro_batches = held_out[self.rank :: self.world]
        self.task.module.eval()
        with torch.no_grad(), self.accelerator.autocast():
            counts = [
                self.task.judge(data).double() for data in read_ahead(map(self.task.load, micro_batches), depth=1)
            ]
        self.task.module.train()
        # A process without a micro-batch takes part in the all-reduce with zeros.
        zeros = torch.zeros(self.task.n_counts, dtype=torch.float64, device=self.accelerator.device)
        total = sum(counts, zeros)
        if self.world > 1:
            total = self.accelerator.reduce(total, "sum")
        figures = self.task.figures(total.tolist())
        self.validation += [(self.step, self.epoch, name, value) for name, value in figures.items()]
        write_events(self.step, figures)
        text = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        log.info("%s: epoch %d of %d: %s", self.job.name, self.epoch + 1, self.cfg.epochs, text)
        figure = figures[self.task.judged_by]
        if self.cfg.keep == "best" and figure > self.best.get("figure", -math.inf):
            self.best = {"figure": figure, "weights": self._weights()}

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in self.task.module.state_dict().items()}

    def _save(self) -> None:
        self.saved_at, self.saved_step = time.monotonic(), self.step
        if self.rank != 0:
            return
        state = {
            "weights": self._weights(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "step": self.step,
            "epoch": self.epoch,
            "batch": self.batch,
            "curves": self.curves,
            "validation": self.validation,
            "best": self.best,
            "left_out": sorted(self.broken.left_out),
        }
        self.job.snapshots.save(self.step, lambda path: write_state(state, path))

    def _restore(self, state: dict[str, Any]) -> None:
        self.task.module.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.step, self.epoch, self.batch = state["step"], state["epoch"], state["batch"]
        self.saved_step = self.step
        self.broken.left_out = set(state.get("left_out", ()))  # states of older versions lack it
        self.curves, self.validation, self.best = state["curves"], state["validation"], state["best"]

    def _log_start(self) -> None:
        if self.rank != 0:
            return
        name, cfg = self.job.name, self.cfg
        if self.step:
            log.info("%s: resumes at step %d of %d", name, self.step + 1, self.n_steps)
            return
        log.info("%s: %d samples, %d steps in %d epochs", name, self.task.n_samples, self.n_steps, cfg.epochs)
        if cfg.keep == "best" and not self.task.validation():
            log.warning("%s: keep = 'best', but no video is held out: the last weights are kept", name)
        n_shared = math.ceil(min(cfg.batch_size, self.task.n_samples) / cfg.micro_batch_size)
        if n_shared < self.world:
            log.warning(
                "%s: %d of %d processes are idle: a batch has %d micro-batches; set a smaller micro_batch_size",
                *(name, self.world - n_shared, self.world, n_shared),
            )
        if cfg.warmup_steps >= self.n_steps:
            log.warning(
                "%s: warmup_steps = %d, but there are only %d steps: the learning rate never reaches %g",
                *(name, cfg.warmup_steps, self.n_steps, cfg.learning_rate),
            )

    @contextmanager
    def _report(self) -> Iterator[ReportStep]:
        if self.rank != 0:
            yield lambda step, figures: None
            return
        with self.job.report(self.job.name, self.n_steps, self.step) as report:
            yield report

    def _not_finite(self, samples: list[int], loss: float, norm: float) -> SevilaError:
        names = self.task.names(samples)
        shown = ", ".join(names[:MAX_NAMES]) + (f" and {len(names) - MAX_NAMES} more" * (len(names) > MAX_NAMES))
        precision = "" if self.cfg.precision == "float32" else ", precision = 'float32'"
        kept = (
            f"The state of step {self.saved_step} is kept in {self.job.snapshots.folder}"
            if self.saved_step
            else "It is too early for a kept state"
        )
        return SevilaError(
            f"{self.job.name}: epoch {self.epoch + 1}, step {self.step + 1} of {self.n_steps}: loss {loss}, gradient norm "
            f"{norm}, on the batch of {shown}; both must be finite. {kept}. "
            f"Try a lower learning_rate, clip_gradient_norm{precision}: each restarts the training, as another artifact"
        )


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
