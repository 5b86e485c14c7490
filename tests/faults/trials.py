"""Runs trials in two processes at a time, each of which forks its own victims."""

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
# The number of threads changes bytes, the resource tracker warns about killed processes, and no run needs its own report.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.resource_tracker",
    "SEVILA_REPORT": "no",
}
# Imported once for all victims; none of these modules starts a thread when imported.
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
    counts: Sequence[tuple[Kind, int]],
    seed: int,
    folder: Path,
    only: Collection[str] = (),
    log: Callable[[str], None] = print,
) -> dict[str, Tally]:
    """Try the given number of faults of each kind in `folder` and return the outcomes by kind.

    Args:
        only: names of kinds or trials (`clock/7`) to run; empty: all.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    tallies = {kind.name: Tally() for kind, _ in counts}
    with patch.dict(os.environ, ENVIRONMENT), ProcessPoolExecutor(LANES, context) as lanes:
        worlds = {}
        for options in dict.fromkeys(options for kind, _ in counts for options in kind.options):
            worlds[options] = lanes.submit(make_world, folder, *options).result()
            log(f"{worlds[options].seconds:.1f} s without faults: run full.toml {' '.join(options)}")
        started, futures = time.monotonic(), {}
        for kind, count in counts:
            for number, first in enumerate(range(0, count, kind.a_trial)):
                name, on = f"{kind.name}/{number}", [worlds[options] for options in kind.options]
                if not only or name in only or kind.name in only:
                    n_faults = min(kind.a_trial, count - first)
                    trial = Trial(f"{name} of seed {seed}", on, folder / name.replace("/", "_"), n_faults)
                    futures[lanes.submit(_tally, kind.trial, trial)] = kind.name
        for n_done, future in enumerate(as_completed(futures), 1):
            name, tally = futures[future], future.result()
            tallies[name].add(tally)
            seconds = time.monotonic() - started
            log(f"{n_done}/{len(futures)} trials in {seconds:.0f} s: {name}, {tallies[name].tried} tried")
            for message in tally.messages:
                log(f"  {message}")
    return tallies


def _tally(work: Callable[[Trial], None], trial: Trial) -> Tally:
    trial.folder.mkdir()
    try:
        work(trial)
    except Exception:  # an error of the trial itself: none of its faults counts as survived
        trial.fail("wrong", traceback.format_exc())
    finally:
        shutil.rmtree(trial.folder, ignore_errors=True)
    return trial.tally
