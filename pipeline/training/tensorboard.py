"""Writing the figures of a training as TensorBoard events, if the run has a folder for them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.training.task import TrainingJob

log = logging.getLogger("sevila")

WriteEvents = Callable[[int, dict[str, float]], None]  # (optimizer steps done, figures by name)


@contextmanager
def events_writer(job: TrainingJob, step: int, rank: int) -> Iterator[WriteEvents]:
    """Yield a function that writes events from `step` on; a no-op in ranks other than 0, or without the library."""
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

        def write(step: int, figures: dict[str, float]) -> None:
            for name, value in figures.items():
                writer.add_scalar(name, value, step)

        yield write
