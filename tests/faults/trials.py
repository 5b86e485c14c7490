"""Tries faults in two processes at a time, each forking victims of its own."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from unittest.mock import patch

from tests.faults.judging import Tally
from tests.faults.kinds import Kind
from tests.faults.world import Trial, make_world

LANES = 2  # trials at a time
# Another number of threads gives other bytes; killed processes clean up nothing, which a helper of Python's would tell; and a
# report is made from what is judged here, after it.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.resource_tracker",
    "SEVILA_REPORT": "no",
}
# What victims need and would otherwise import anew; nothing of it starts a thread by being imported.
PRELOADED = (
    "cli",
    "stages.chain",
    "pipeline.engine.steps",
    "reports.summary",
    "torch",
    "accelerate",
    "safetensors.torch",
    "pipeline.training.task",
    "pipeline.training.process",
    "pipeline.models.answerer",
    "pipeline.models.localizer",
    "pipeline.models.vision",
    "tests.faults.kinds",
)


def run_trials(
    wanted: Sequence[tuple[Kind, int]],
    seed: int,
    folder: Path,
    only: Collection[str] = (),
    tell: Callable[[str], None] = print,
) -> dict[str, Tally]:
    """Try so many faults of each kind, in `folder`, and return what became of them by kind.

    Args:
        only: names of trials to restrict this to (`clock/7`), where there are any.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    tallies = {kind.name: Tally() for kind, _ in wanted}
    with patch.dict(os.environ, ENVIRONMENT), ProcessPoolExecutor(LANES, context) as lanes:
        worlds = {}
        for options in dict.fromkeys(options for kind, _ in wanted for options in kind.options):
            worlds[options] = lanes.submit(make_world, folder, *options).result()
            tell(f"{worlds[options].seconds:.1f} s without faults: run full.toml {' '.join(options)}")
        started, futures = time.monotonic(), {}
        for kind, count in wanted:
            for number, first in enumerate(range(0, count, kind.a_trial)):
                name, on = f"{kind.name}/{number}", [worlds[options] for options in kind.options]
                if not only or name in only or kind.name in only:
                    n_faults = min(kind.a_trial, count - first)
                    trial = Trial(f"{name} of seed {seed}", on, folder / name.replace("/", "_"), n_faults)
                    futures[lanes.submit(_tally, kind.trial, trial)] = kind.name
        for n_done, future in enumerate(as_completed(futures), 1):
            name, found = futures[future], future.result()
            tallies[name].add(found)
            seconds = time.monotonic() - started
            tell(f"{n_done}/{len(futures)} trials in {seconds:.0f} s: {name}, {tallies[name].tried} tried")
            for told in found.told:
                tell(f"  {told}")
    return tallies


def _tally(work: Callable[[Trial], None], trial: Trial) -> Tally:
    trial.folder.mkdir()
    try:
        work(trial)
    except Exception:  # the trial itself broke: no fault of it can count as survived
        trial.fail("wrong", traceback.format_exc())
    finally:
        shutil.rmtree(trial.folder, ignore_errors=True)
    return trial.tally
