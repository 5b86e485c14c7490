"""kill -9 of a run of the full chain, by the clock and before file operations, of its resumes, and of its children."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress

from cache.store import Store
from tests.faults.judging import being_made
from tests.faults.victims import KILLED, Victim, last_words
from tests.faults.world import Trial

DECODER, TRAINER = "decode_worker import main", "spawn_main"  # words of their command lines


def by_the_clock(trial: Trial) -> None:
    """Kill a run at a random moment of its length or of one of its artifacts, and its resumes likewise."""

    def kill(is_first: bool) -> int:
        victim = trial.start()
        if is_first and trial.rng.random() < 0.5:
            return _killed_after(victim, trial.rng.uniform(0, trial.world.seconds))
        left = sorted(set(trial.world.artifacts) - set(Store(trial.store)))
        if not left:  # the last kill came when only the summary was left to print
            return victim.finish()
        id = trial.rng.choice(left)
        places = [trial.store / "partial" / id, trial.store / "artifacts" / id]
        while not any(place.exists() for place in places):  # until it is begun
            status = victim.ended(0.001)
            if status is not None:
                return status
        return _killed_after(victim, trial.rng.uniform(0, trial.world.artifacts[id]))

    _killed_in_a_row(trial, kill)


def by_operation(trial: Trial) -> None:
    """Kill a run, then its resumes, just before a random one of the operations that change the disk."""

    def kill(is_first: bool) -> int:
        n_operations = trial.world.n_operations if is_first else trial.world.n_operations // 3
        return trial.start(kill_before=trial.rng.randint(1, n_operations)).finish()

    _killed_in_a_row(trial, kill)


def _killed_after(victim: Victim, seconds: float) -> int:
    status = victim.ended(seconds)
    return victim.kill() if status is None else status


def _killed_in_a_row(trial: Trial, kill: Callable[[bool], int]) -> None:
    """Kill a run and its resumes, let it end, and judge; a run that ends before it is killed is judged and begun anew."""
    while not trial.is_done:
        status = kill(not trial.seen)
        if status == KILLED:
            trial.happened(being_made(trial.store))
        else:
            trial.end(status)
    if trial.seen:
        trial.end()


def of_decoders(trial: Trial) -> None:
    """Kill decoder processes; the run goes on meanwhile. A video that is struck twice in a row would fail, so wait in between."""
    _of_children(trial, DECODER, (2.0, 3.0))


def of_trainers(trial: Trial) -> None:
    """Kill processes of trainings in two processes; the run says so and ends, and its resume is attacked again."""
    _of_children(trial, TRAINER, (0.0, 5.0))


def _of_children(trial: Trial, words: str, seconds_between: tuple[float, float]) -> None:
    while not trial.is_done:
        victim = trial.start()
        status = victim.ended(trial.rng.uniform(0.0, seconds_between[1]))
        while status is None and not trial.is_done:
            if _is_one_killed(trial, victim, words):
                trial.happened(being_made(trial.store))
                status = victim.ended(trial.rng.uniform(*seconds_between))
            else:
                status = victim.ended(0.02)
        status = victim.finish() if status is None else status
        if status == 0:
            trial.end(status)
        elif status != 1 or "Traceback" in last_words(trial.beside, 4000):
            trial.fail("wrong", f"status {status}: {last_words(trial.beside)}")
    if trial.seen:
        trial.end()


def _is_one_killed(trial: Trial, victim: Victim, words: str) -> bool:
    found = victim.children(words)
    with suppress(ProcessLookupError):
        if found:
            os.kill(trial.rng.choice(found), signal.SIGKILL)
            return True
    return False
