"""kill -9 of runs and resumes at random times or before file operations, and of their child processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress

from cache.store import Store
from tests.faults.judging import stage_in_progress
from tests.faults.victims import KILLED, Victim, output_tail
from tests.faults.world import Trial

DECODER, TRAINER = "decode_worker import main", "spawn_main"  # in their command lines


def by_the_clock(trial: Trial) -> None:
    """Kill a run, then its resumes, at a random moment of the run or of one of its artifacts."""

    def kill(is_first: bool) -> int:
        victim = trial.start()
        if is_first and trial.rng.random() < 0.5:
            return _kill_after(victim, trial.rng.uniform(0, trial.world.seconds))
        left = sorted(set(trial.world.artifacts) - set(Store(trial.store)))
        if not left:  # the last kill came after the last artifact
            return victim.finish()
        id = trial.rng.choice(left)
        places = [trial.store / "partial" / id, trial.store / "artifacts" / id]
        while not any(place.exists() for place in places):  # until it is started
            status = victim.wait(0.001)
            if status is not None:
                return status
        return _kill_after(victim, trial.rng.uniform(0, trial.world.artifacts[id]))

    _kill_repeatedly(trial, kill)


def by_operation(trial: Trial) -> None:
    """Kill a run, then its resumes, just before a random operation that changes the disk."""

    def kill(is_first: bool) -> int:
        n_operations = trial.world.n_operations if is_first else trial.world.n_operations // 3
        return trial.start(kill_before=trial.rng.randint(1, n_operations)).finish()

    _kill_repeatedly(trial, kill)


def _kill_after(victim: Victim, seconds: float) -> int:
    status = victim.wait(seconds)
    return victim.kill() if status is None else status


def _kill_repeatedly(trial: Trial, kill: Callable[[bool], int]) -> None:
    """Kill a run and its resumes, let the last one end and judge it; a run that ends before its kill is judged at once."""
    while not trial.is_done:
        status = kill(not trial.seen)
        if status == KILLED:
            trial.count_fault(stage_in_progress(trial.store))
        else:
            trial.end(status)
    if trial.seen:
        trial.end()


def of_decoders(trial: Trial) -> None:
    """Kill decoder processes while the run continues. A video hit twice in a row would fail, so wait between kills."""
    _kill_children(trial, DECODER, (2.0, 3.0))


def of_trainers(trial: Trial) -> None:
    """Kill processes of two-process trainings; the run must end with a clear error, and its resume is attacked again."""
    _kill_children(trial, TRAINER, (0.0, 5.0))


def _kill_children(trial: Trial, words: str, seconds_between: tuple[float, float]) -> None:
    while not trial.is_done:
        victim = trial.start()
        status = victim.wait(trial.rng.uniform(0.0, seconds_between[1]))
        while status is None and not trial.is_done:
            if _kill_one(trial, victim, words):
                trial.count_fault(stage_in_progress(trial.store))
                status = victim.wait(trial.rng.uniform(*seconds_between))
            else:
                status = victim.wait(0.02)
        status = victim.finish() if status is None else status
        if status == 0:
            trial.end(status)
        elif status != 1 or "Traceback" in output_tail(trial.beside, 4000):
            trial.fail("wrong", f"status {status}: {output_tail(trial.beside)}")
    if trial.seen:
        trial.end()


def _kill_one(trial: Trial, victim: Victim, words: str) -> bool:
    children = victim.children(words)
    with suppress(ProcessLookupError):
        if children:
            os.kill(trial.rng.choice(children), signal.SIGKILL)
            return True
    return False
