"""Several processes that start at once on one store, with one recipe or several over the same videos."""

from __future__ import annotations

from tests.faults.victims import KILLED, output_tail
from tests.faults.world import Trial


def at_once(trial: Trial) -> None:
    """Run the worlds' recipes in two or four processes at once; kill one of them in about half of the races."""
    while not trial.is_done:
        n_processes, is_one_killed = trial.rng.choice((2, 4)), trial.rng.random() < 0.5
        worlds = [trial.worlds[number % len(trial.worlds)] for number in range(n_processes)]
        victims = [trial.start(world) for world in worlds]
        statuses = []
        if is_one_killed:
            status = victims[0].wait(trial.rng.uniform(0, trial.world.seconds * n_processes / 2))
            statuses.append(victims[0].kill() if status is None else status)
        trial.count_fault(f"{n_processes} processes{', one killed' if KILLED in statuses else ''}")
        statuses += [victim.finish() for victim in victims[len(statuses) :]]
        if KILLED in statuses:  # finish its recipe too: the others may not have built all of it
            statuses = [trial.start().finish(), *statuses[1:]]
        if any(statuses):
            trial.fail("lost", f"the processes ended with {statuses}: {output_tail(trial.beside, 2000)}")
        else:
            expected: dict[str, str] = {}
            for world in worlds:
                expected |= world.contents
            trial.judge(expected)
        trial.reset()
