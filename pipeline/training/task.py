"""The training of any module: AdamW, linear warm-up and cosine schedule, one optimizer step per global batch (`loop.py`).

A task defines the module and the loss of a batch. `TrainingConfig` and the task determine the result; the number of processes
and the times of checkpoints do not: the loss of a step is the sum of the token losses over the global batch divided by its
number of target tokens, and random draws (dropout) are seeded by (seed, step, micro-batch).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import Field, field_validator

from cache.errors import SevilaError
from pipeline.engine.snapshots import Snapshots
from pipeline.engine.stage import Config, RunContext
from pipeline.environment import clear_settings
from pipeline.inference.visual_prompt_weights import TrainingStep, ValidationFigure
from pipeline.loaded_models import make_room
from pipeline.precision import EIGHT_BITS

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger("sevila")


class TrainingConfig(Config):
    """How a module is trained; stages override the defaults of learning rate, warm-up, epochs and batch size."""

    learning_rate: float = Field(3e-5, gt=0, le=1, description="peak learning rate, after the warm-up")
    warmup_steps: int = Field(1000, ge=0, description="optimizer steps of linear warm-up; then cosine down to 0")
    epochs: int = Field(10, ge=1, description="passes over the training questions")
    batch_size: int = Field(64, ge=1, description="questions of one optimizer step, over all processes")
    micro_batch_size: int = Field(
        16,
        ge=1,
        description="questions in one forward pass: bounds memory; processes share the micro-batches of a batch. Part of the "
        "identity, because each micro-batch draws its own dropout",
    )
    weight_decay: float = Field(0.05, ge=0, description="weight decay of parameters with two dimensions or more")
    clip_gradient_norm: float | None = Field(
        None, gt=0, description="norm to which gradients are clipped; the paper does not clip"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="arithmetic: bfloat16 loads the language model in it and autocasts the trained part, which stays float32",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="recompute the language model's blocks in the backward pass: less memory, a third more time",
    )
    held_out_percent: float = Field(
        5.0, ge=0, le=50, description="share of the videos held out for the validation curve"
    )
    keep: Literal["last", "best"] = Field(
        "last", description="keep the weights of the last epoch, or of the one with the best validation figure"
    )
    seed: int = Field(0, ge=0, description="seed of the order of samples, of random frames and of dropout")

    @field_validator("precision", mode="before")
    @classmethod
    def _lets_gradients_through(cls, precision: Any) -> Any:
        if precision in EIGHT_BITS:
            raise ValueError(
                f"{precision} is for inference only: no gradient passes its rounding; train in bfloat16 or float32, and use the "
                "trained weights in any precision"
            )
        return precision


@dataclass(frozen=True)
class MicroBatch:
    """The rows of one forward and backward pass; their type is the task's.

    Attributes:
        n_targets: number of target tokens; the loss is divided by their sum over the batch.
        n_frames: number of frames, for the throughput.
    """

    rows: Sequence[Any]
    n_targets: int
    n_frames: int


class Task(Protocol):
    """A module and its samples. Samples are numbers from 0 to `n_samples` - 1; validation samples are not among them."""

    n_samples: int
    judged_by: str  # name of the validation figure for `keep = "best"`; higher is better
    n_counts: int  # C of `judge`

    @property
    def module(self) -> nn.Module:
        """The module whose parameters are trained, as far as they require a gradient."""

    def cut(self, samples: Sequence[int], epoch: int) -> list[MicroBatch]:
        """Cut a batch into micro-batches, deterministically."""

    def validation(self) -> list[MicroBatch]:
        """Return the held-out samples as micro-batches; an empty list disables validation."""

    def load(self, micro_batch: MicroBatch) -> Any:
        """Return the data for `loss` and `judge`; called in a prefetching thread, one call at a time."""

    def loss(self, data: Any) -> Tensor:
        """Return the summed cross-entropy of a micro-batch's target tokens, a float32 scalar with gradient."""

    def judge(self, data: Any) -> Tensor:
        """Return counts [C] to be summed over micro-batches; rows without finite logits are neither right nor wrong."""

    def figures(self, counts: Sequence[float]) -> dict[str, float]:
        """Return the validation figures for the summed counts."""

    def names(self, samples: Sequence[int]) -> list[str]:
        """Return the names of samples in messages."""


ReportStep = Callable[[int, dict[str, float]], None]  # (optimizer steps done, figures of the last one)
OpenReport = Callable[[str, int, int], AbstractContextManager[ReportStep]]  # (stage, steps in all, steps done already)


@dataclass(frozen=True)
class TrainingJob:
    """The description of a training that each of its processes receives; all of it can be pickled.

    Attributes:
        name: name of the stage; `id`: id of the artifact.
        make_task: creates the task on the device of the given run.
        report: shows progress.
    """

    name: str
    id: str
    cfg: TrainingConfig
    run: RunContext
    snapshots: Snapshots
    make_task: Callable[[RunContext], Task]
    report: OpenReport


@dataclass(frozen=True)
class Trained:
    """The result of a training: tensors by name, the rows of the tables `curves` and `validation`.

    Attributes:
        hardware: hardware of each process, as fields of a record.
        n_left_out: number of samples left out, because their loss is not finite with the initial weights.
    """

    weights: dict[str, Tensor]
    curves: list[TrainingStep]
    validation: list[ValidationFigure]
    hardware: list[dict[str, Any]]
    n_left_out: int = 0


def train(job: TrainingJob) -> Trained:
    """Train in the run's number of processes, resuming from a saved state if there is one; return weights and curves.

    Raises:
        SevilaError: a loss or gradient is not finite, or a process died. The last state is kept.
    """
    from pipeline.training.process import train_in_process
    from pipeline.training.states import read_state

    n_processes = processes(job.run)
    clear_settings()  # Accelerate reads variables of the environment even for options that are passed to it
    if n_processes > 1:
        from pipeline.training.launch import start_processes

        log.info("%s: %d processes", job.name, n_processes)
        make_room(math.inf, job.run.torch_device())  # each process loads its own, one of them on this process' device
        hardware = start_processes(n_processes, train_in_process, (job,), job.name)
    else:
        hardware = [train_in_process(job)]
    state = job.snapshots.newest(read_state)
    if state is None or state["epoch"] < job.cfg.epochs:
        raise SevilaError(f"{job.name}: the final state in {job.snapshots.folder} cannot be read; run again")
    best = state["best"] if job.cfg.keep == "best" else None
    return Trained(
        best["weights"] if best else state["weights"],
        [TrainingStep(*row) for row in state["curves"]],
        [ValidationFigure(*row) for row in state["validation"]],
        hardware,
        len(state.get("left_out", ())),
    )


def processes(run: RunContext) -> int:
    """Return the number of processes of a training: `run.processes`, or one per GPU of this machine.

    Raises:
        SevilaError: there are more processes than GPUs, on device cuda.
    """
    import torch

    if not run.torch_device().startswith("cuda"):
        return run.processes or 1
    n_gpus = 1 if run.device.startswith("cuda:") else torch.cuda.device_count()
    if run.processes > n_gpus:
        raise SevilaError(
            f"{run.processes} processes on device {run.device}: each needs a GPU of its own, expected at most {n_gpus}; give "
            "fewer processes, or device cuda for all GPUs of this machine"
        )
    return run.processes or n_gpus
