"""One process of a training: its device, its peers, and its out-of-memory error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from cache.errors import SevilaError
from pipeline.engine.hardware import hardware_facts
from pipeline.engine.stage import RunContext
from pipeline.loaded_models import FOR_TRAINING, make_room
from pipeline.memory import is_out_of_memory
from pipeline.threads import as_suits
from pipeline.training.loop import Loop
from pipeline.training.task import TrainingJob


def train_in_process(job: TrainingJob) -> dict[str, Any]:
    """Train in this process, alone or as the rank that the environment gives; return its hardware as fields of a record."""
    with _accelerator(job.run, job.cfg.precision) as accelerator:
        device = accelerator.device
        # Alone, the run's own name of the device, by which models are shared; Accelerate has cpu:0 in distributed training.
        is_alone = accelerator.num_processes == 1
        name = job.run.torch_device() if is_alone or device.type == "cpu" else str(device)
        run = replace(job.run, device=name)
        task = job.make_task(run)
        make_room(0, name, FOR_TRAINING)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            try:
                n_parameters = sum(parameter.numel() for parameter in task.module.parameters())
                with as_suits(n_parameters):
                    Loop(job, task, accelerator).run()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                raise SevilaError(
                    f"{job.name}: out of memory on {name} with {job.cfg.micro_batch_size} questions at once: {error}. Set a "
                    "smaller micro_batch_size, or gradient_checkpointing = true; each restarts the training, as another artifact"
                ) from error
        return hardware_facts(True, run)


@contextmanager
def _accelerator(run: RunContext, precision: str) -> Iterator[Accelerator]:
    """Yield an Accelerator for this process."""
    # Reset its global state, which fixes device and precision for a process: a chain may train several modules in one.
    AcceleratorState._reset_state(reset_partial_state=True)
    device = torch.device(run.torch_device())
    if device.index is not None:
        torch.cuda.set_device(device)
    try:
        precision = "bf16" if precision == "bfloat16" else "no"
        yield Accelerator(cpu=device.type == "cpu", mixed_precision=precision, gradient_accumulation_steps=1)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
