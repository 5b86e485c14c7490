"""The small world that faults are tried on: a recipe of the full chain over a few videos, run without faults; and trials."""

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
from tests.faults.victims import Victim, command, forget, fork, last_words, n_operations
from tests.stages.moment_world import WORDS, places, write_world
from tests.tiny_blip2 import write_tiny_blip2
from tests.videos import make_video

OTHER = "other"  # folder of a world with other videos, annotations and weights under the same names
SMALL_SHARDS = ("--shard-megabytes", "0.03")  # two videos a shard


@dataclass(frozen=True)
class World:
    """Where the data lies, the options that make the plan, and what an uninterrupted run gives.

    Attributes:
        folder: the data.
        options: of the recipe, over those of full.toml.
        whole: the store of the uninterrupted run, and `contents` what it holds.
        seconds: how long that took, and `artifacts` each of its artifacts.
        n_operations: operations that it made on the disk.
    """

    folder: Path
    options: tuple[str, ...]
    whole: Path
    contents: dict[str, str]
    seconds: float
    artifacts: dict[str, float]
    n_operations: int

    @property
    def sizes(self) -> list[int]:
        """The size of every file that the run left, in bytes."""
        return [path.stat().st_size for path in self.whole.rglob("*") if path.is_file()]


@dataclass
class Trial:
    """Some faults of one kind, one after the other: where they are tried, on what, and what became of them.

    Attributes:
        name: seeds `rng`, and so makes them happen again, as far as the clock allows.
        count: how many are wanted.
        folder: of its own.
        beside: where its processes note what they print and publish; see victims.py.
        store: where its processes run into; a trial may put it elsewhere.
        seen: what was finished there at moments before, which must stay as it is.
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
        self._counted = (0, 0)  # faults and failures when this began anew the last time

    @property
    def world(self) -> World:
        """The world, of trials that need one only."""
        return self.worlds[0]

    @property
    def is_done(self) -> bool:
        """Whether there were as many faults as are wanted."""
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

    def happened(self, where: str) -> None:
        """Count one fault, and keep what is finished at this moment."""
        self.tally.tried += 1
        self.tally.where[where] += 1
        self.seen.append(finished(self.store))

    def fail(self, what: str, told: str) -> None:
        """Count one thing that is `lost`, `wrong` or built `twice`."""
        self.tally.fail(what, f"{self.name}: {told}")

    def end(self, status: int | None = None, other_inputs: bool = False) -> None:
        """Judge a run that ended with `status`, or run the same command again and judge that; then begin with a new store."""
        status = self.start().finish() if status is None else status
        if status:
            self.fail("lost", f"the same command ended with status {status}: {last_words(self.beside)}")
        else:
            self.judge(self.world.contents, other_inputs)
        self.begin_anew()

    def judge(self, wanted: dict[str, str], other_inputs: bool = False) -> None:
        """Count what is amiss in the store."""
        judge(self.tally, self.store, wanted, self.seen, self.name, self.beside, other_inputs)

    def begin_anew(self) -> None:
        """Count what was survived since the last time, and remove the store and all notes."""
        n_tried, n_failures = self._counted
        if self.tally.n_failures == n_failures:
            self.tally.survived += self.tally.tried - n_tried
        self._counted = self.tally.tried, self.tally.n_failures
        shutil.rmtree(self.store, ignore_errors=True)
        forget(self.beside)
        self.seen = []


def run_command(folder: Path, store: Path, *options: str) -> list[str]:
    """Return `run full.toml ...` for the data in a folder."""
    return ["run", str(folder / "full.toml"), *places(folder, store), *SMALL_SHARDS, *options]


def make_world(folder: Path, *options: str) -> World:
    """Write the data unless it is there, and run the recipe once without any fault; raises `RuntimeError` if that fails."""
    data, store = folder / "world", folder / f"whole{zlib.crc32(repr(options).encode())}"
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
        raise RuntimeError(f"the uninterrupted run ended with status {status}: {last_words(store, 2000)}")
    seconds = time.monotonic() - started
    durations = {id: _seconds(Store(store).record(id)) for id in Store(store)}
    return World(data, options, store, contents(store), seconds, durations, n_operations(store))


def _write_data(folder: Path, n_frames: int) -> None:
    write_world(folder)
    readable = [path for path in sorted((folder / "videos").glob("*.mp4")) if path.stat().st_size]
    for number, path in enumerate(readable):  # each with a content of its own: the pool holds equal ones once
        make_video(path, n_frames=n_frames + number, fps=6)


def _seconds(record: Record) -> float:
    return (datetime.fromisoformat(record.finished) - datetime.fromisoformat(record.started)).total_seconds()
