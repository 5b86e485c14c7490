"""Several processes that start at once on one store: the same recipe, or others over the same videos."""

from __future__ import annotations

from tests.faults.victims import KILLED, last_words
from tests.faults.world import Trial


def at_once(trial: Trial) -> None:
    """Two or four processes run the worlds' recipes in turn; in about every second race one of them is killed meanwhile."""
    while not trial.is_done:
        n_processes, is_one_killed = trial.rng.choice((2, 4)), trial.rng.random() < 0.5
        worlds = [trial.worlds[number % len(trial.worlds)] for number in range(n_processes)]
        victims = [trial.start(world) for world in worlds]
        statuses = []
        if is_one_killed:
            status = victims[0].ended(trial.rng.uniform(0, trial.world.seconds * n_processes / 2))
            statuses.append(victims[0].kill() if status is None else status)
        trial.happened(f"{n_processes} processes{', one killed' if KILLED in statuses else ''}")
        statuses += [victim.finish() for victim in victims[len(statuses) :]]
        if KILLED in statuses:  # its recipe goes on, too: the others need not have made all that it would
            statuses = [trial.start().finish(), *statuses[1:]]
        if any(statuses):
            trial.fail("lost", f"the processes ended with {statuses}: {last_words(trial.beside, 2000)}")
        else:
            wanted: dict[str, str] = {}
            for world in worlds:
                wanted |= world.contents
            trial.judge(wanted)
        trial.begin_anew()
