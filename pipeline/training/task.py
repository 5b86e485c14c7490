"""One way to train every module: AdamW, linear warm-up and cosine, one optimizer step per global batch (`loop.py`).

A task says what is trained and what a batch's loss is; the loop knows neither questions nor frames. What decides the result is
in `TrainingConfig` and in the task. How many processes share a batch's micro-batches and when states are saved is execution:
the loss of a step is the sum of the token losses over the whole batch divided by its number of target tokens, and random draws
(dropout) are seeded by (seed, step, micro-batch), so that they are the same in any number of processes and after a kill.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import Field, field_validator

from cache.errors import SevilaError
from pipeline.engine.snapshots import Snapshots
from pipeline.engine.stage import Config, RunContext
from pipeline.environment import clear_settings
from pipeline.inference.resident import give_back_language
from pipeline.inference.visual_prompt_weights import TrainingStep, ValidationFigure
from pipeline.precision import EIGHT_BITS

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger("sevila")


class TrainingConfig(Config):
    """How a module is trained; the defaults of learning rate, warm-up, epochs and batch are each stage's own."""

    learning_rate: float = Field(3e-5, gt=0, le=1, description="peak learning rate, after the warm-up")
    warmup_steps: int = Field(1000, ge=0, description="optimizer steps of linear warm-up; then cosine down to 0")
    epochs: int = Field(10, ge=1, description="passes over the training questions")
    batch_size: int = Field(64, ge=1, description="questions of one optimizer step, over all processes")
    micro_batch_size: int = Field(
        16,
        ge=1,
        description="questions computed at once: bounds memory; processes share the micro-batches of a batch. Part of the "
        "identity, because each draws its own dropout",
    )
    weight_decay: float = Field(0.05, ge=0, description="AdamW's, of parameters with two dimensions or more")
    clip_gradient_norm: float | None = Field(
        None, gt=0, description="longest gradient allowed; the paper does not clip"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="arithmetic: bfloat16 loads the language model in it and autocasts the trained part, which stays float32",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="compute the language model's blocks again in the backward pass: less memory, a third more time",
    )
    held_out_percent: float = Field(
        5.0, ge=0, le=50, description="of the videos, kept out of training for the validation curve"
    )
    keep: Literal["last", "best"] = Field(
        "last", description="weights after the last epoch, or after the one with the best validation figure"
    )
    seed: int = Field(0, ge=0, description="seed of the order, of random frames and of dropout")

    @field_validator("precision", mode="before")
    @classmethod
    def _lets_gradients_through(cls, precision: Any) -> Any:
        if precision in EIGHT_BITS:
            raise ValueError(
                f"{precision} is for stages that ask the language model: no gradient passes its rounding; train in bfloat16 or "
                "float32, and ask what was trained in any precision"
            )
        return precision


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch, which is computed at once: its rows, whatever the task means by them.

    Attributes:
        n_targets: target tokens, by whose number over the whole batch the loss is divided.
        n_frames: frames that are looked at, for the rate.
    """

    rows: Sequence[Any]
    n_targets: int
    n_frames: int


class Task(Protocol):
    """A module and its samples. Samples are numbers from 0 to `n_samples` - 1; validation samples are not among them."""

    n_samples: int
    judged_by: str  # the validation figure that is to be high
    n_counts: int  # C of `judge`

    @property
    def module(self) -> nn.Module:
        """What is trained: all parameters of it that require a gradient."""

    def cut(self, samples: Sequence[int], epoch: int) -> list[MicroBatch]:
        """Return one batch as micro-batches; the same ones for the same arguments."""

    def validation(self) -> list[MicroBatch]:
        """Return the held-out samples as micro-batches; none: there is no validation."""

    def load(self, micro_batch: MicroBatch) -> Any:
        """Return what `loss` and `judge` take; called in a thread that reads ahead, one call at a time."""

    def loss(self, data: Any) -> Tensor:
        """Return the summed cross-entropy of a micro-batch's target tokens, a float32 scalar with gradient."""

    def judge(self, data: Any) -> Tensor:
        """Return counts that add up over micro-batches, [C]; rows without finite logits are neither right nor wrong."""

    def figures(self, counts: Sequence[float]) -> dict[str, float]:
        """Return the validation figures of summed counts."""

    def names(self, samples: Sequence[int]) -> list[str]:
        """Return what people call these samples."""


ReportStep = Callable[[int, dict[str, float]], None]  # (optimizer steps done, figures of the last one)
OpenReport = Callable[[str, int, int], AbstractContextManager[ReportStep]]  # (stage, steps in all, steps done already)


@dataclass(frozen=True)
class TrainingJob:
    """A training as every process of it gets it; all of it can be pickled, `make_task` and `report` included.

    Attributes:
        name: of the stage; `id`: of the artifact.
        make_task: makes the task on the device of the run it is given.
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
    """The outcome of a training: tensors by name, the rows of the tables `curves` and `validation`, how many samples it left out.

    Attributes:
        hardware: on what each of its processes ran, as fields of a record.
    """

    weights: dict[str, Tensor]
    curves: list[TrainingStep]
    validation: list[ValidationFigure]
    hardware: list[dict[str, Any]]
    n_left_out: int = 0  # their loss is not finite with the weights as given


def train(job: TrainingJob) -> Trained:
    """Train, or go on training after a kill, in as many processes as the run says; return the kept weights and the curves.

    Raises:
        SevilaError: a loss or gradient that is not finite, a process that died. The last state is kept.
    """
    from pipeline.training.process import train_in_process
    from pipeline.training.states import read_state

    n_processes = processes(job.run)
    clear_settings()  # Accelerate asks the environment for more than it is given, even for what it is given
    if n_processes > 1:
        from pipeline.training.launch import start_processes

        log.info("%s: %d processes", job.name, n_processes)
        give_back_language()  # each has its own, one of them on this one's device
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
    """Return how many processes a training runs in: `run.processes`, or one per GPU of this machine.

    Raises:
        SevilaError: more processes than GPUs, where they would run on GPUs.
    """
    import torch

    if not run.torch_device().startswith("cuda"):
        return run.processes or 1
    n_gpus = 1 if run.device.startswith("cuda:") else torch.cuda.device_count()
    if run.processes > n_gpus:
        raise SevilaError(
            f"{run.processes} processes on device {run.device}: each needs a GPU of its own, {n_gpus} wanted at most; give "
            "fewer processes, or device cuda for all GPUs of this machine"
        )
    return run.processes or n_gpus
