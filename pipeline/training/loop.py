"""The optimisation loop that every process of a training runs; what it optimises only the task knows (`task.py`)."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers.optimization import get_cosine_schedule_with_warmup

from cache.errors import SevilaError
from pipeline.engine.stage import RunContext
from pipeline.memory import is_out_of_memory
from pipeline.training.broken_samples import BrokenSamples
from pipeline.training.task import Job, MicroBatch, Report, Task

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger("sevila")

NAMES_TOLD = 8  # of a batch that went wrong
WriteEvents = Callable[[int, dict[str, float]], None]


def work(job: Job) -> None:
    """What every process of a training does."""
    with _accelerator(job.run, job.cfg.precision) as accelerator:
        device = accelerator.device
        place = "cpu" if device.type == "cpu" else str(device)  # not cpu:0, as Accelerate calls it among several
        task = job.make_task(replace(job.run, device=place))
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            try:
                _Loop(job, task, accelerator).run()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                raise SevilaError(
                    f"{job.name}: out of memory on {place} with {job.cfg.micro_batch_size} questions at once: {error}. Set a "
                    "smaller micro_batch_size, or gradient_checkpointing = true; each makes another artifact, from the start"
                ) from error


@contextmanager
def _accelerator(run: RunContext, precision: str) -> Iterator[Accelerator]:
    """Yield Accelerate's view of this process: its device, its peers, its autocast."""
    # It keeps device and precision for all of a process' life, and refuses others; a chain trains several modules in one.
    AcceleratorState._reset_state(reset_partial_state=True)
    device = torch.device(run.torch_device())
    if device.index is not None:
        torch.cuda.set_device(device)
    try:
        precision = "bf16" if precision == "bfloat16" else "no"
        yield Accelerator(cpu=device.type == "cpu", mixed_precision=precision, gradient_accumulation_steps=1)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW's parameter groups: weight decay for all trained parameters but those of one dimension (paper table 11)."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.dim() > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.dim() <= 1], "weight_decay": 0.0},
    ]


def batches_of(n_samples: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return an epoch's batches: all samples, shuffled by (seed, epoch); the last batch may be smaller."""
    order = np.random.default_rng([seed, epoch]).permutation(n_samples).tolist()
    return [order[start : start + batch_size] for start in range(0, n_samples, batch_size)]


class _Loop:
    """The state of one training in one process, and the steps that change it."""

    def __init__(self, job: Job, task: Task, accelerator: Accelerator) -> None:
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
        """Train from the last state to the end."""
        state = self.job.snapshots.newest(read_state)
        if state is not None:
            self._restore(state)
        self._tell_start()
        self.task.module.train()
        with self._report() as report, _events(self.job, self.step, self.rank) as write_events:
            while self.epoch < self.cfg.epochs:
                while self.batch < self.steps_an_epoch:
                    self._train_epoch(report, write_events)
                self._validate(write_events)
                self.epoch, self.batch = self.epoch + 1, 0
                self._save()
        self.accelerator.wait_for_everyone()

    def _train_epoch(self, report: Report, write_events: WriteEvents) -> None:
        """Train to the epoch's end, or to a batch of which something is left out: the stream does not know that yet."""
        epoch = self.epoch
        whole = batches_of(self.task.n_samples, self.cfg.batch_size, self.cfg.seed, epoch)
        batches = [self.broken.without(batch) for batch in whole[self.batch :]]
        own = (micro for batch in batches for micro in self._own(self.task.cut(batch, epoch)))
        stream = self.task.stream(own)
        last = time.perf_counter()
        for batch in batches:
            if not batch:
                self.optimizer.zero_grad()
                self.optimizer.step()  # changes nothing without gradients, and a scheduler wants one before its own
                self._next_step()
                continue
            loss, norm, n_frames = self._gradient(batch, stream)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                if not self.broken.look(batch, epoch, bool(self.curves)):
                    raise self._not_finite(batch, loss, norm)
                return
            self.optimizer.step()
            now = time.perf_counter()
            rate, last = n_frames / (now - last), now
            learning_rate = self.scheduler.get_last_lr()[0]
            self._next_step()
            self.curves.append((self.step, epoch, loss, learning_rate, norm, rate))
            figures = {"loss": loss, "frames_per_second": rate}
            report(self.step, figures)
            write_events(self.step, figures | {"learning_rate": learning_rate, "gradient_norm": norm})
            if self.batch < len(whole) and time.monotonic() - self.saved_at >= self.job.run.checkpoint_minutes * 60:
                self._save()

    def _next_step(self) -> None:
        self.scheduler.step()
        self.step, self.batch = self.step + 1, self.batch + 1

    def _gradient(self, batch: list[int], stream: Iterator[Any]) -> tuple[float, float, int]:
        """Compute the gradient of a batch and return its loss, the gradient's norm and the number of frames."""
        micro_batches = self.task.cut(batch, self.epoch)
        n_targets = sum(micro.n_targets for micro in micro_batches)
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        total = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        for number in range(self.rank, len(micro_batches), self.world):
            torch.manual_seed(_seed(self.cfg.seed, self.step, number))
            data = next(stream)
            with self.accelerator.autocast():
                loss = self.task.loss(data)
            self.accelerator.backward(loss / n_targets)
            total += loss.detach()
        if self.world > 1:
            total = self._shared(total)
        loss_value = float(total) / n_targets
        norm = float(
            torch.nn.utils.clip_grad_norm_(self.parameters, self.cfg.clip_gradient_norm or math.inf, foreach=None)
        )
        return loss_value, norm, sum(micro.n_frames for micro in micro_batches)

    def _own(self, micro_batches: list[MicroBatch]) -> list[MicroBatch]:
        return micro_batches[self.rank :: self.world]

    def _shared(self, total: Tensor) -> Tensor:
        """Add up the gradients of all processes in place, in one message; return the sum of `total`.

        Not by DistributedDataParallel, which adds up after every backward pass and wants as many of them in every process.
        """
        summed = self.accelerator.reduce(torch.cat([parameter.grad.flatten() for parameter in self.parameters]), "sum")  # type: ignore[union-attr]
        sizes = [parameter.numel() for parameter in self.parameters]
        for parameter, part in zip(self.parameters, summed.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        shared: Tensor = self.accelerator.reduce(total, "sum")
        return shared

    def _validate(self, write_events: WriteEvents) -> None:
        held_out = self.task.validation()
        if not held_out:
            return
        own = self._own(held_out)
        self.task.module.eval()
        # A process without a micro-batch still has to take part in the sum.
        with torch.no_grad(), self.accelerator.autocast():
            counts = [self.task.judge(data).double() for data in self.task.stream(own)]
        self.task.module.train()
        nothing = torch.zeros(self.task.n_counts, dtype=torch.float64, device=self.accelerator.device)
        total = sum(counts, nothing)
        if self.world > 1:
            total = self.accelerator.reduce(total, "sum")
        figures = self.task.figures(total.tolist())
        self.validation += [(self.step, self.epoch, name, value) for name, value in figures.items()]
        write_events(self.step, figures)
        told = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        log.info("%s: epoch %d of %d: %s", self.job.name, self.epoch + 1, self.cfg.epochs, told)
        judged = figures[self.task.judged_by]
        if self.cfg.keep == "best" and judged > self.best.get("figure", -math.inf):
            self.best = {"figure": judged, "weights": self._weights()}

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
        self.job.snapshots.save(self.step, lambda path: _write_state(state, path))

    def _restore(self, state: dict[str, Any]) -> None:
        self.task.module.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.step, self.epoch, self.batch = state["step"], state["epoch"], state["batch"]
        self.saved_step = self.step
        self.broken.left_out = set(state.get("left_out", ()))  # a state of before has none
        self.curves, self.validation, self.best = state["curves"], state["validation"], state["best"]

    def _tell_start(self) -> None:
        if self.rank != 0:
            return
        name, cfg = self.job.name, self.cfg
        if self.step:
            log.info("%s: goes on at step %d of %d", name, self.step + 1, self.n_steps)
            return
        log.info("%s: %d samples, %d steps in %d epochs", name, self.task.n_samples, self.n_steps, cfg.epochs)
        if cfg.keep == "best" and not self.task.validation():
            log.warning("%s: keep = 'best', but no video is held out: the last weights are kept", name)
        n_shared = math.ceil(min(cfg.batch_size, self.task.n_samples) / cfg.micro_batch_size)
        if n_shared < self.world:
            log.warning(
                "%s: %d of %d processes have nothing to do: a batch has %d micro-batches; set a smaller micro_batch_size",
                *(name, self.world - n_shared, self.world, n_shared),
            )
        if cfg.warmup_steps >= self.n_steps:
            log.warning(
                "%s: warmup_steps = %d, but there are %d steps in all: the learning rate never comes up to %g",
                *(name, cfg.warmup_steps, self.n_steps, cfg.learning_rate),
            )

    @contextmanager
    def _report(self) -> Iterator[Report]:
        if self.rank != 0:
            yield lambda step, figures: None
            return
        with self.job.report(self.job.name, self.n_steps, self.step) as report:
            yield report

    def _not_finite(self, batch: list[int], loss: float, norm: float) -> SevilaError:
        names = self.task.names(batch)
        told = ", ".join(names[:NAMES_TOLD]) + (f" and {len(names) - NAMES_TOLD} more" * (len(names) > NAMES_TOLD))
        precision = "" if self.cfg.precision == "float32" else ", precision = 'float32'"
        kept = (
            f"The state of step {self.saved_step} is kept in {self.job.snapshots.folder}"
            if self.saved_step
            else "It is too early for a kept state"
        )
        return SevilaError(
            f"{self.job.name}: epoch {self.epoch + 1}, step {self.step + 1} of {self.n_steps}: loss {loss}, gradient norm "
            f"{norm}, on the batch of {told}; wanted finite ones. {kept}. "
            f"Try a lower learning_rate, clip_gradient_norm{precision}: each makes another artifact, from the start"
        )


@contextmanager
def _events(job: Job, step: int, rank: int) -> Iterator[WriteEvents]:
    """Yield what writes TensorBoard events, or nothing where nobody asked or the library is not installed."""
    if job.run.tensorboard is None or rank != 0:
        yield lambda step, figures: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.warning("%s: no TensorBoard events: pip install 'sevila-pipeline[tensorboard]'", job.name)
        yield lambda step, figures: None
        return
    with SummaryWriter(str(job.run.tensorboard / job.id), purge_step=step + 1) as writer:

        def write(at: int, figures: dict[str, float]) -> None:
            for name, value in figures.items():
                writer.add_scalar(name, value, at)

        yield write


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def read_state(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _write_state(state: dict[str, Any], path: Path) -> None:
    try:
        with path.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:  # torch's own word for whatever the file said, such as that the disk is full
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
