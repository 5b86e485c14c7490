"""The stage contract: a stage is a function plus a version, an output class and, read off its signature, a config and inputs.

    @stage(version=1, output=Keyframes)
    def select_keyframes(cfg: SelectKeyframes, run: RunContext, frames: Frames, scores: FrameScores | None, *, out: Output): ...

What changes the result is in `cfg` and in the inputs, and makes the identity. What changes only speed or place is in `run`.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import logging
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Protocol

from filelock import Timeout
from pydantic import BaseModel, ConfigDict, field_validator

from cache.errors import MissingSourceError, SevilaError, StoreError
from cache.files import write_atomically
from cache.shards import ShardWriter, new_shard
from cache.store import PROGRESS, Record, Store, artifact_id, describe_files
from cache.tables import Schema, read_columns, read_rows, write_rows
from pipeline.sources import Sources

log = logging.getLogger("sevila")

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "decord", "av", "h5py", "pyarrow")


class Config(BaseModel):
    """Base of every stage's config: immutable, no unknown keys, no silent conversion, no path."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @field_validator("*", mode="after")
    @classmethod
    def _no_path(cls, value: Any) -> Any:
        if isinstance(value, Path) or (isinstance(value, str) and value.startswith(("/", "./", "../", "~"))):
            raise ValueError(
                f"{str(value)!r} is a path; a recipe names data and weights, and where they lie on this machine is said "
                "on the command line, in the environment or in sevila.toml"
            )
        return value


@dataclass(frozen=True)
class RunContext:
    """How and where to run; never part of an identity.

    Attributes:
        device: a torch device, or `auto` for the first GPU if there is one.
        batch_tokens: tokens a forward pass may hold, padding included; also bounds frames per ViT batch.
        decode_workers: processes that decode videos.
        decode_timeout_seconds: how long a decoder may be silent before it is killed.
        shard_bytes: size at which a shard of frames or features is cut.
        sources: finds data and weights by name on this machine.
    """

    store: Store
    device: str = "auto"
    batch_tokens: int = 16384
    decode_workers: int = 2
    decode_timeout_seconds: float = 60.0
    shard_bytes: int = 1 << 30
    sources: Sources | None = None

    def torch_device(self) -> str:
        """Return the name of the torch device to use.

        Raises:
            SevilaError: a GPU was asked for and torch sees none.
        """
        import torch

        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise SevilaError(f"device {self.device!r}: torch {torch.__version__} sees no GPU; use --device cpu")
        return ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device


class Input(Protocol):
    """What a stage may take: an artifact, or something from outside that is identified by its content."""

    @property
    def id(self) -> str | None:
        """The identity, or None as long as it is not known."""

    @property
    def problem(self) -> str:
        """Why the identity is not known, for people."""


class Artifact:
    """A handle on one published artifact; subclasses declare its kind and tables and add readers."""

    kind: ClassVar[str]
    tables: ClassVar[dict[str, Schema]] = {}

    def __init__(self, store: Store, id: str | None, problem: str = "") -> None:
        self.store = store
        self.id = id
        self.problem = problem
        self._record: Record | None = None

    @property
    def record(self) -> Record:
        """The artifact's record; raises `StoreError` if it does not exist."""
        if self.id is None:
            raise StoreError(f"{self.kind} is not known yet: {self.problem}")
        if self._record is None:
            self._record = self.store.record(self.id)
        return self._record

    @property
    def path(self) -> Path:
        """The artifact's folder."""
        return self.store.path(self.record.id)

    def files(self, name: str, suffix: str) -> list[Path]:
        """Return the files of a table (`.parquet`) or of a series of shards (`.h5`): `name.suffix`, or `name/NNNNN.suffix`."""
        names = [
            file for file in self.record.files if file.startswith((f"{name}.", f"{name}/")) and file.endswith(suffix)
        ]
        return [self.path / file for file in sorted(names)]

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Return all rows of a table as dicts."""
        return read_rows(self.files(table, ".parquet"), self.tables[table])

    def columns(self, table: str, *names: str) -> dict[str, Any]:
        """Return named columns of a table as numpy arrays."""
        return read_columns(self.files(table, ".parquet"), self.tables[table], names)


@dataclass(frozen=True)
class Stage:
    """A stage's declaration, made by `@stage`."""

    name: str
    version: int
    output: type[Artifact]
    config: type[Config]
    inputs: tuple[str, ...]
    sharded: bool
    function: Callable[..., None]

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.function) or "").split("\n")[0]

    def artifact_id(self, cfg: Config, inputs: Sequence[Input | None]) -> str | None:
        """Return the identity of what this stage makes of these, or None if an input's identity is not known."""
        ids = {name: value.id if value is not None else None for name, value in zip(self.inputs, inputs, strict=True)}
        if any(value is not None and value.id is None for value in inputs):
            return None
        return artifact_id(self.name, self.version, cfg.model_dump(mode="python"), ids)


STAGES: dict[str, Stage] = {}


def stage(version: int, output: type[Artifact], sharded: bool = False) -> Callable[[Callable[..., None]], Stage]:
    """Declare a stage. Raise `version` by hand when the meaning of the code changes: every id below it changes then."""

    def declare(function: Callable[..., None]) -> Stage:
        parameters = list(inspect.signature(function, eval_str=True).parameters.values())
        names = tuple(parameter.name for parameter in parameters)
        assert names[:2] == ("cfg", "run") and names[-1] == "out", f"{function.__name__}(cfg, run, inputs..., *, out)"
        made = Stage(function.__name__, version, output, parameters[0].annotation, names[2:-1], sharded, function)
        STAGES[made.name] = made
        return made

    return declare


@dataclass
class Output:
    """Where a stage writes: rows, files, and notes for the record. Nothing is visible to others before it is published."""

    folder: Path
    stage: Stage
    rows: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    phase_seconds: Counter[str] = field(default_factory=Counter)
    details: dict[str, Any] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    suffix: str = ""

    def write_rows(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write one of the output's declared tables; in a shard, this shard's part of it."""
        name = f"{table}{self.suffix}.parquet"
        self.rows[table] += write_rows(self.folder / name, self.stage.output.tables[table], rows)
        self.add_file(name)

    def add_file(self, name: str) -> None:
        """Take a file that the stage has written in `folder` into the artifact."""
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
        }


class Shard(Output):
    """One shard of a sharded output: an `Output` whose files carry the shard's number."""

    def __init__(self, folder: Path, stage: Stage, number: int, items: list[Any], settings: dict[str, Any]) -> None:
        super().__init__(folder, stage, suffix=f"/{number:05d}")
        self.number = number
        self.items = items
        self.settings = settings

    @contextmanager
    def arrays(self, name: str) -> Iterator[ShardWriter]:
        """Open this shard's HDF5 file of a series, `name/NNNNN.h5`; it is complete when the block ends."""
        file = f"{name}{self.suffix}.h5"
        with new_shard(self.folder / file) as writer:
            yield writer
        self.add_file(file)


class ShardedOutput(Output):
    """An output made in shards, by any number of processes, each shard by one of them and once."""

    def __init__(self, store: Store, id: str, stage: Stage) -> None:
        super().__init__(store.partial(id), stage)
        self._store = store
        self._id = id

    def each_shard(
        self, plan: Callable[[], tuple[list[list[Any]], dict[str, Any]]], work: Callable[[Shard], None]
    ) -> None:
        """Do the shards that nobody has finished, then wait for those that others are doing.

        Args:
            plan: called once per artifact: the items (JSON values) of each shard, and settings such as the batch size that
                decide bytes. The plan is stored first and never changes, so that a resumed run makes the same bytes.
            work: makes one shard; it must write through the `Shard` it gets.
        """
        shards, settings = self._plan(plan)
        for wait in (False, True):
            for number, items in enumerate(shards):
                lock = self._store.lock(f"{self._id}/{number:05d}")
                try:
                    with lock.acquire(timeout=-1 if wait else 0):
                        if self._store.exists(self._id):
                            return
                        if not self._note(number).exists():
                            self._do(Shard(self.folder, self.stage, number, items, settings), work, len(shards))
                except Timeout:
                    log.info("%s: shard %d is being made by another process", self.stage.name, number + 1)

    def collect(self) -> None:
        """Gather the notes of all shards, whoever made them."""
        for number in range(len(json.loads((self.folder / PROGRESS / "plan.json").read_text())["shards"])):
            note = json.loads(self._note(number).read_text())
            self.files |= note["files"]
            self.rows.update(note["rows"])
            self.dropped.update(note["dropped"])
            self.phase_seconds.update(note["phase_seconds"])

    def _plan(
        self, plan: Callable[[], tuple[list[list[Any]], dict[str, Any]]]
    ) -> tuple[list[list[Any]], dict[str, Any]]:
        path = self.folder / PROGRESS / "plan.json"
        with self._store.lock(f"{self._id}/plan"):
            if not path.exists():
                shards, settings = plan()
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, json.dumps({"shards": shards, "settings": settings}).encode())
            else:
                log.info("%s: resuming %s", self.stage.name, self._id)
            content = json.loads(path.read_text())
            return content["shards"], content["settings"]

    def _do(self, shard: Shard, work: Callable[[Shard], None], n_shards: int) -> None:
        start = time.perf_counter()
        work(shard)
        write_atomically(self._note(shard.number), json.dumps(shard.notes()).encode())
        seconds = time.perf_counter() - start
        log.info("%s: shard %d of %d done in %.1f s", self.stage.name, shard.number + 1, n_shards, seconds)

    def _note(self, number: int) -> Path:
        return self.folder / PROGRESS / f"{number:05d}.json"


def build(stage: Stage, cfg: Config, run: RunContext, inputs: Sequence[Any]) -> Artifact:
    """Return what `stage` makes of `cfg` and `inputs`: from the store if it is there, else by running the stage.

    Raises:
        MissingSourceError: an input is not on this machine.
    """
    for name, value in zip(stage.inputs, inputs, strict=True):
        if value is not None and value.id is None:
            raise MissingSourceError(f"{stage.name} needs {name}: {value.problem}")
    id = stage.artifact_id(cfg, inputs)
    assert id is not None
    if run.store.exists(id):
        log.info("%s: reused %s", stage.name, id)
        return stage.output(run.store, id)
    read = ", ".join(
        f"{name} {value.id}" for name, value in zip(stage.inputs, inputs, strict=True) if value is not None
    )
    log.info("%s: reads %s", stage.name, read)
    started = datetime.now(UTC)
    if stage.sharded:
        _run(stage, cfg, run, inputs, ShardedOutput(run.store, id, stage), id, started)
    else:
        with run.store.lock(f"{id}/build"):
            if not run.store.exists(id):
                folder = run.store.partial(id)
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                _run(stage, cfg, run, inputs, Output(folder, stage), id, started)
    return stage.output(run.store, id)


def _run(
    stage: Stage, cfg: Config, run: RunContext, inputs: Sequence[Any], out: Output, id: str, started: datetime
) -> None:
    stage.function(cfg, run, *inputs, out=out)
    with run.store.lock(f"{id}/publish"):
        if run.store.exists(id):
            log.info("%s: another process has finished %s", stage.name, id)
            return
        out.collect()
        finished = datetime.now(UTC)
        record = Record(
            id=id,
            stage=stage.name,
            version=stage.version,
            kind=stage.output.kind,
            config=cfg.model_dump(mode="python"),
            inputs={
                name: value.id if value is not None else None for name, value in zip(stage.inputs, inputs, strict=True)
            },
            schemas={name: schema.as_dict() for name, schema in stage.output.tables.items()},
            details=out.details,
            libraries=_library_versions(),
            git_revision=_git_revision(),
            host=platform.node(),
            started=started.isoformat(timespec="milliseconds"),
            finished=finished.isoformat(timespec="milliseconds"),
            **_hardware(run),
            **out.notes(),
        )
        run.store.publish(record)
    _tell(out, id, (finished - started).total_seconds())


def _tell(out: Output, id: str, seconds: float) -> None:
    made = ", ".join(f"{count} {name}" for name, count in out.rows.items()) or f"{len(out.files)} files"
    log.info("%s: made %s (%s) in %.1f s", out.stage.name, id, made, seconds)
    if out.dropped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in out.dropped.most_common())
        log.warning("%s: %d failed: %s", out.stage.name, out.dropped.total(), reasons)


def _hardware(run: RunContext) -> dict[str, Any]:
    peak = {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "device": "cpu"}
    torch = sys.modules.get("torch")  # a stage that did not need torch must not pay for its import
    if torch is not None and run.torch_device().startswith("cuda"):
        peak["device"] = f"{run.torch_device()} {torch.cuda.get_device_name(run.torch_device())}"
        peak["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated(run.torch_device())
    return peak


def _library_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _git_revision() -> str | None:
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=os.path.dirname(os.path.abspath(__file__)),
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


assert sys.platform != "win32", "ru_maxrss and file locks as used here need Linux or macOS"
