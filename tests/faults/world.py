"""The data and the recipe that faults are tried on, an undisturbed run of it, and trials."""

from __future__ import annotations

import random
import shutil
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cache.record import Record
from cache.store import Store
from tests.faults.judging import Stamp, Tally, contents, finished, judge
from tests.faults.victims import Victim, command, fork, n_operations, output_tail, remove_notes
from tests.stages.moment_world import WORDS, places, write_world
from tests.tiny_blip2 import write_tiny_blip2
from tests.videos import make_video

OTHER = "other"  # folder of a world with other videos, annotations and weights under the same names
SMALL_SHARDS = ("--shard-megabytes", "0.03")  # two videos a shard


@dataclass(frozen=True)
class World:
    """A data folder, options of its recipe and the results of an undisturbed run.

    Attributes:
        folder: the data.
        options: command-line options in addition to full.toml.
        reference: the store of the undisturbed run; `contents`: digests of its files.
        seconds: duration of that run; `artifacts`: duration of each artifact in seconds.
        n_operations: number of its disk operations.
    """

    folder: Path
    options: tuple[str, ...]
    reference: Path
    contents: dict[str, str]
    seconds: float
    artifacts: dict[str, float]
    n_operations: int

    @property
    def sizes(self) -> list[int]:
        """The size in bytes of every file of the undisturbed run."""
        return [path.stat().st_size for path in self.reference.rglob("*") if path.is_file()]


@dataclass
class Trial:
    """A series of faults of one kind, with its worlds, folder and outcomes.

    Attributes:
        name: seed of `rng`; the same name repeats the same choices.
        count: number of faults to try.
        folder: private folder of the trial.
        beside: path beside which its processes note output and publications; see victims.py.
        store: store of its processes; a trial may change it.
        seen: finished files at earlier moments, which must stay unchanged.
    """

    name: str
    worlds: Sequence[World]
    folder: Path
    count: int
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.name)
        self.beside = self.store = self.folder / "store"
        self.seen: list[dict[str, Stamp]] = []
        self._counted = (0, 0)  # faults and failures at the last reset

    @property
    def world(self) -> World:
        """The first world, for trials that need only one."""
        return self.worlds[0]

    @property
    def is_done(self) -> bool:
        """Whether the requested number of faults is reached."""
        return self.tally.tried >= self.count

    def start(
        self,
        world: World | None = None,
        kill_before: int = 0,
        user: int = 0,
        more: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Victim:
        """Start a run of a world's recipe, with `more` options and variables; see `fork`."""
        world = world or self.world
        work = command(run_command(world.folder, self.store, *world.options, *more), user, environment)
        return fork(work, self.store, self.beside, kill_before)

    def count_fault(self, where: str) -> None:
        """Count one fault and remember the files that are finished now."""
        self.tally.tried += 1
        self.tally.where[where] += 1
        self.seen.append(finished(self.store))

    def fail(self, what: str, message: str) -> None:
        """Count one failure: `lost`, `wrong` or `twice`."""
        self.tally.fail(what, f"{self.name}: {message}")

    def check_clear_error(self, status: int, words: tuple[str, ...] = ("",), name: str = "fault") -> None:
        """Count a failure unless the run ended with status 1 and an error line that contains one of `words`."""
        output = output_tail(self.beside, 100_000)
        lines = [line for line in output.splitlines() if line.startswith("error: ")]
        if status != 1 or "Traceback" in output or not any(word in line for line in lines for word in words):
            self.fail("wrong", f"{name}: no clear error but status {status}: {output[-800:]}")

    def end(self, status: int | None = None, other_inputs: bool = False) -> None:
        """Judge a run that ended with `status`, or a new run of the same command; then reset the store."""
        status = self.start().finish() if status is None else status
        if status:
            self.fail("lost", f"the same command ended with status {status}: {output_tail(self.beside)}")
        else:
            self.judge(self.world.contents, other_inputs)
        self.reset()

    def judge(self, expected: dict[str, str], other_inputs: bool = False) -> None:
        """Compare the store with the expected contents and count the failures."""
        judge(self.tally, self.store, expected, self.seen, self.name, self.beside, other_inputs)

    def reset(self) -> None:
        """Count the faults survived since the last reset, and remove the store and all notes."""
        n_tried, n_failures = self._counted
        if self.tally.n_failures == n_failures:
            self.tally.survived += self.tally.tried - n_tried
        self._counted = self.tally.tried, self.tally.n_failures
        shutil.rmtree(self.store, ignore_errors=True)
        remove_notes(self.beside)
        self.seen = []


def run_command(folder: Path, store: Path, *options: str) -> list[str]:
    """Return `run full.toml ...` for the data in a folder."""
    return ["run", str(folder / "full.toml"), *places(folder, store), *SMALL_SHARDS, *options]


def make_world(folder: Path, *options: str) -> World:
    """Write the data if missing and run the recipe once without faults; raises `RuntimeError` if the run fails."""
    data, store = folder / "world", folder / f"reference{zlib.crc32(repr(options).encode())}"
    if not data.exists():
        _write_data(data, n_frames=24)
        text = (data / "questions.jsonl").read_text()
        (data / "other.jsonl").write_text(text.replace("What is the", "Where is the"))
        _write_data(data.with_name(OTHER), n_frames=40)
        write_tiny_blip2(data.with_name(OTHER) / "tiny-blip2", seed=1, words=WORDS)
        (data.with_name(OTHER) / "questions.jsonl").write_text(text.replace("What is the", "Where is the"))
    options = tuple(
        option.replace("WORLD", str(data)).replace("OTHER", str(data.with_name(OTHER))) for option in options
    )
    started = time.monotonic()
    status = fork(command(run_command(data, store, *options)), store, store).finish()
    if status:
        raise RuntimeError(f"the undisturbed run ended with status {status}: {output_tail(store, 2000)}")
    seconds = time.monotonic() - started
    durations = {id: _seconds(Store(store).record(id)) for id in Store(store)}
    return World(data, options, store, contents(store), seconds, durations, n_operations(store))


def _write_data(folder: Path, n_frames: int) -> None:
    write_world(folder)
    readable = [path for path in sorted((folder / "videos").glob("*.mp4")) if path.stat().st_size]
    for number, path in enumerate(readable):  # all different: the pool stores equal videos once
        make_video(path, n_frames=n_frames + number, fps=6)


def _seconds(record: Record) -> float:
    return (datetime.fromisoformat(record.finished) - datetime.fromisoformat(record.started)).total_seconds()
