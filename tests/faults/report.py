"""Writes docs/reliability.md: the faults tried and their outcomes."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.faults.judging import Tally
from tests.faults.kinds import Kind

LIBRARIES = ("torch", "h5py", "pyarrow", "numpy", "filelock", "safetensors", "av", "decord")
HEAD = """\
# Reliability

Written by `make reliability`, which tries the faults below for real and counts what becomes of them; do not edit. The store
under attack is that of the full chain (trainings included) over nine small videos, two of them broken, with a tiny random
BLIP-2, on a CPU, in one thread. After each trial the same command runs to its end, and the store is compared
with that of a run to which nothing happened.

- *tried*: faults that really struck; a run that was over before its fault does not count.
- *survived*: nothing was amiss after the trial.
- *lost*: something could not be had again by running the same command (for flipped bits: after `cache verify --drop`).
- *wrong*: a file, table or array with other bytes than those of the run without faults (tables of measured seconds excepted),
  an error without a clear line, a file left over (`*.part`, partial folders, training states), a fault that verify misses.
- *built twice*: an artifact, a finished shard or a part of the pool that was made again: by the inode and time of every
  finished file before and after, and by a count that the processes themselves append to as they publish.
"""
NOT_COVERED = """\
## What this does not cover

- Loss of power: a killed process leaves the kernel's caches alive. That files are synced before they are renamed is in the code
  (cache/files.py), not in these figures.
- Disks that lie about syncs, memory that flips bits before they are written and checksummed, several flipped bits that cancel
  each other in a checksum.
- Several hosts on one network file system: all processes ran on one machine. Unmounting stands in for a server that vanishes;
  stale handles (ESTALE) and locks across hosts were not tried. Nor were quotas of users.
- GPUs, and models of real size: the store does the same for them, but for longer, so that moments within one shard, one
  training state or one large file are rarer here than there.
- Timing: faults by the clock do not strike at the same instruction again. The seed repeats what is drawn, not the moment.
"""


def report(
    kinds: Sequence[Kind],
    tallies: Mapping[str, Tally],
    skipped: Mapping[str, str],
    seed: int,
    seconds: float,
    folder: Path,
) -> str:
    """Return the report as Markdown; `folder` held the stores, `skipped` gives the reason why a kind was not tried."""
    tried = [kind for kind in kinds if kind.name in tallies]
    rows = [(kind.title, tallies[kind.name]) for kind in tried]
    total = Tally()
    for _, tally in rows:
        total.add(tally)
    table = [
        "| kind | tried | survived | lost | wrong | built twice |",
        "|---|---:|---:|---:|---:|---:|",
        *(_row(title, tally) for title, tally in rows),
        _row("**all**", total),
    ]
    failures = [f"- {line}" for line in total.messages] or ["Nothing."]
    parts = [HEAD, "\n".join(table), _circumstances(seed, seconds, folder)]
    parts += [
        f"## {kind.title[0].upper()}{kind.title[1:]}\n\n{kind.description}\n\n{_where(tallies[kind.name])}"
        for kind in tried
    ]
    parts += [f"Not tried: {kind.title} ({skipped[kind.name]})." for kind in kinds if kind.name in skipped]
    again = f"`python -m tests.faults --seed {seed} --only KIND/TRIAL` tries one again."
    parts += ["## What went wrong\n\n" + "\n".join(failures) + (f"\n\n{again}" if total.messages else ""), NOT_COVERED]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _row(title: str, tally: Tally) -> str:
    cells = (title, tally.tried, tally.survived, tally.lost, tally.wrong, tally.twice)
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _where(tally: Tally) -> str:
    places = ", ".join(f"{count} {where}" for where, count in sorted(tally.where.items()))
    return f"Struck: {places}." if places else "Struck nothing."


def _circumstances(seed: int, seconds: float, folder: Path) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(folder)], capture_output=True, text=True).stdout.strip()
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, seed {seed}, {seconds / 60:.0f} minutes on {os.cpu_count()} cores; Linux "
        f"{platform.release().split('-')[0]}, stores on {kind} (full disks: on tmpfs and ext4); Python "
        f"{platform.python_version()}, {versions}."
    )
