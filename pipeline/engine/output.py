"""Where stages write: rows and files of an artifact in the making, whole or shard by shard; nothing is visible before the end."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cache.errors import CorruptArtifactError, InputChangedError, SevilaError
from cache.files import refuse_links, sync
from cache.notes import read_note, write_note
from cache.pool import Pool
from cache.record import PROGRESS, artifact_id, describe_files
from cache.store import SNAPSHOTS, Store
from cache.tables import Schema, write_blocks, write_rows
from pipeline.engine.hardware import merged_facts
from pipeline.engine.progress import step_name
from pipeline.engine.read_inputs import ReadInputs
from pipeline.engine.snapshots import Snapshots
from pipeline.engine.stage import Plan, Stage
from pipeline.memory import memory_errors

log = logging.getLogger("sevila")
WRITTEN_AT_ONCE = 8192  # rows that are Python objects while the others are columns


@dataclass
class Output:
    """Where a stage writes: rows, files, and notes for the record. Nothing is visible to others before it is published."""

    folder: Path
    stage: Stage
    rows: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    phase_seconds: Counter[str] = field(default_factory=Counter)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    suffix: str = ""
    pool_space: str = ""
    read: ReadInputs = field(default_factory=lambda: ReadInputs(""))
    # Facts of processes that are not the one that publishes.
    hardware: list[dict[str, Any]] = field(default_factory=list)

    def write_rows(self, table: str, rows: Sequence[Mapping[str, Any] | NamedTuple]) -> None:
        """Write one of the output's declared tables; in a shard, this shard's part of it."""
        name = f"{table}{self.suffix}.parquet"
        as_dicts = [row._asdict() if isinstance(row, tuple) else row for row in rows]
        self.rows[table] += write_rows(self.folder / name, self._schema(table), as_dicts)
        self.add_file(name)

    def write_columns(self, table: str, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> None:
        """Write one of the output's declared tables column by column; in a shard, this shard's part of it."""
        self._write(table, [columns])

    def write_tuples(self, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Write one of the output's declared tables, of rows that are made meanwhile, each with all columns in their order."""
        names, each = list(self._schema(table).columns), iter(rows)
        blocks = iter(lambda: list(islice(each, WRITTEN_AT_ONCE)), [])
        self._write(table, (dict(zip(names, zip(*block, strict=True), strict=True)) for block in blocks))

    def _write(self, table: str, blocks: Iterable[Mapping[str, Sequence[Any] | np.ndarray]]) -> None:
        name = f"{table}{self.suffix}.parquet"
        self.rows[table] += write_blocks(self.folder / name, self._schema(table), blocks)
        self.add_file(name)

    def _schema(self, table: str) -> Schema:
        schema = self.stage.output.tables.get(table)
        if schema is None:
            known = ", ".join(self.stage.output.tables) or "none"
            raise SevilaError(f"{self.stage.name} writes a table {table!r}; its artifact declares {known}")
        return schema

    @property
    def snapshots(self) -> Snapshots:
        """Where a stage that resumes keeps its state until it is published."""
        return Snapshots(self.folder / PROGRESS / SNAPSHOTS, self.read.header)

    def add_file(self, name: str) -> None:
        """Take a file that the stage has written in `folder` into the artifact, safe on disk."""
        sync(self.folder / name)
        self.files |= describe_files(self.folder, [name])

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the wall seconds of a block in the record."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.phase_seconds[name] += time.perf_counter() - start  # type: ignore[assignment]

    def collect(self) -> None:
        """Complete the notes before they go into the record."""

    def notes(self) -> dict[str, Any]:
        """Return what goes into the record, or into a shard's note until then."""
        return {
            "files": self.files,
            "rows": dict(self.rows),
            "dropped": dict(self.dropped),
            "phase_seconds": {name: round(seconds, 3) for name, seconds in self.phase_seconds.items()},
            "pool": self.pool_space,
        } | merged_facts(self.hardware)


class Shard(Output):
    """One shard of a sharded output: an `Output` whose files carry the shard's number.

    Its `place`, from 0, among the `of` shards that this process is asked for is for progress.
    """

    def __init__(
        self, folder: Path, stage: Stage, number: int, items: list[Any], settings: dict[str, Any], place: int, of: int
    ) -> None:
        super().__init__(folder, stage, suffix=f"/{number:05d}")
        self.number = number
        self.items = items
        self.settings = settings
        self.place = place
        self.of = of

    def notes(self) -> dict[str, Any]:
        """Return the shard's note: also what the plan says of it, as a note serves no other plan."""
        return {**super().notes(), "items": self.items}


class ShardedOutput(Output):
    """An output made in shards, by any number of processes, each shard by one of them and once."""

    def __init__(
        self,
        store: Store,
        id: str,
        stage: Stage,
        plan: Callable[[], Plan],
        only: Sequence[int] | None = None,
        own_hardware: Callable[[], dict[str, Any]] = dict,
        read: ReadInputs | None = None,
    ) -> None:
        """Begin or go on with an output. Shards and plans of another artifact, or of other contents of its inputs, do not count.

        Args:
            plan: called unless a plan of this artifact is stored. It is stored first and never changes, so that a resumed run
                makes the same bytes.
            only: the shards to make, in this order, where somebody else sees to the others; those that others are making are
                left to them.
            own_hardware: returns on what this process makes shards, as fields of a record.
            read: what this process reads.
        """
        super().__init__(store.partial(id), stage, read=read or ReadInputs(id))
        refuse_links(self.folder)
        self._store = store
        self._id = id
        self._plan = plan
        self._only = only
        self._own_hardware = own_hardware

    def pool(self, **content: Any) -> Pool:
        """Return the pool space of all that this stage makes with this content: its config, an encoder's fingerprint.

        The artifact's table `parts` then says where in it the arrays are.
        """
        self.pool_space = artifact_id(self.stage.name, self.stage.version, content, {})
        return Pool(self._store, self.pool_space)

    def each_shard(self, work: Callable[[Shard], None]) -> None:
        """Do the shards that nobody has finished, then, unless only some are wanted, wait for those that others are doing.

        Args:
            work: makes one shard; it must write through the `Shard` it gets.
        """
        from filelock import Timeout  # here, as commands that only look need no locks

        shards, settings = self._stored_plan()
        wanted = range(len(shards)) if self._only is None else [number for number in self._only if number < len(shards)]
        for wait in (False, True) if self._only is None else (False,):
            for place, number in enumerate(wanted):
                lock = self._store.lock(f"{self._id}/{number:05d}")
                try:
                    with lock.acquire(timeout=-1 if wait else 0):
                        # In this order: if the note is gone, the last process has published meanwhile, and then it exists.
                        if not self._is_done(number, shards[number]) and not self._store.is_current(self._id):
                            self.read.check()  # else one that has read former content would make what others have made
                            shard = Shard(self.folder, self.stage, number, shards[number], settings, place, len(wanted))
                            shard.pool_space = self.pool_space
                            self._do(shard, work, len(shards))
                except Timeout:
                    log.info("%s: shard %d is being made by another process", self.stage.name, number + 1)

    def refuse_all(self, code: str, n_items: int, problem: str) -> None:
        """Raise `SevilaError` with this problem if all of an artifact's `n_items` were dropped, some of them with this code.

        Shards that others are making may hold better ones. The shards are given up, so that the next run tries them again.
        """
        if self._only is not None:
            return
        with self._store.lock(f"{self._id}/publish"):
            if self._store.exists(self._id):
                return
            paths = [self._note(number) for number in range(len(read_note(self._plan_note)["shards"]))]
            dropped: Counter[str] = Counter()
            for path in paths:
                dropped.update((_whole_note(path) or {"dropped": {}})["dropped"])
            if dropped[code] and dropped.total() == n_items:
                for path in paths:
                    path.unlink(missing_ok=True)
                raise SevilaError(problem)

    def unfinished(self) -> list[int]:
        """Return the shards that nobody has finished; none if the artifact is published."""
        shards = self._stored_plan().shards
        missing = [number for number in range(len(shards)) if not self._is_done(number, shards[number])]
        return [] if self._store.is_current(self._id) else missing

    def collect(self) -> None:
        """Gather the notes of all shards, of all processes; raises `InputChangedError` if one was made from other content."""
        for number, items in enumerate(read_note(self._plan_note)["shards"]):
            if not self._is_done(number, items):
                raise InputChangedError(
                    f"{self._id}: shard {number} was made from other content of its inputs; run again"
                )
            note = read_note(self._note(number))
            self.files |= note["files"]
            self.rows.update(note["rows"])
            self.dropped.update(note["dropped"])
            self.phase_seconds.update(note["phase_seconds"])
            with suppress(FileNotFoundError, CorruptArtifactError):
                self.hardware.append(read_note(self._hardware_note(number)))
            self._hardware_note(number).unlink(missing_ok=True)  # the record has it from now on

    def _stored_plan(self) -> Plan:
        with self._store.lock(f"{self._id}/plan"):
            content = self._own_note(self._plan_note)
            if content is None and self._store.is_current(self._id):
                return Plan([])
            if content is None:
                self.read.check()
                for note in self._plan_note.parent.glob("*.json"):  # of shards of a plan that was damaged
                    note.unlink()
                planned = self._plan()._asdict()
                self._plan_note.parent.mkdir(parents=True, exist_ok=True)
                write_note(self._plan_note, {**planned, **self.read.header})
                content = read_note(self._plan_note)
        n_done = sum(self._is_done(number, items) for number, items in enumerate(content["shards"]))
        if n_done:
            log.info("%s: %d of %d shards are done already", self.stage.name, n_done, len(content["shards"]))
        return Plan(content["shards"], content["settings"])

    def _do(self, shard: Shard, work: Callable[[Shard], None], n_shards: int) -> None:
        # Of a process killed at this shard, which is locked.
        for left_over in self.folder.glob(f"*/{shard.number:05d}.*.part"):
            left_over.unlink()
        start = time.perf_counter()
        with memory_errors(self.stage.name):
            work(shard)
        write_note(self._hardware_note(shard.number), self._own_hardware())
        write_note(self._note(shard.number), {**shard.notes(), "shard": shard.number, **self.read.header})
        seconds = time.perf_counter() - start
        name = step_name(self.stage.name)
        level = logging.INFO if n_shards > 1 else logging.DEBUG
        log.log(level, "%s: shard %d of %d done in %.1f s", name, shard.number + 1, n_shards, seconds)

    def _is_done(self, number: int, items: list[Any]) -> bool:
        note = self._own_note(self._note(number)) or {}
        is_whole = all((self.folder / name).is_file() for name in note.get("files", ()))  # users delete damaged ones
        return is_whole and note.get("shard") == number and note.get("items") == items

    def _own_note(self, path: Path) -> dict[str, Any] | None:
        """Return a note of this artifact, made from what its inputs are now, or None."""
        note = _whole_note(path)
        return note if note is not None and self.read.header.items() <= note.items() else None

    @property
    def _plan_note(self) -> Path:
        return self.folder / PROGRESS / "plan.json"

    def _note(self, number: int) -> Path:
        return self.folder / PROGRESS / f"{number:05d}.json"

    def _hardware_note(self, number: int) -> Path:
        return self.folder / PROGRESS / f"hardware-{number:05d}.json"


def _whole_note(path: Path) -> dict[str, Any] | None:
    """Return a note, or None if there is none; a damaged one is warned of and removed: what it was of is rebuilt."""
    try:
        return read_note(path)
    except FileNotFoundError:
        return None
    except CorruptArtifactError as error:
        log.warning("%s; what it says is rebuilt", error)
        path.unlink(missing_ok=True)
        return None
