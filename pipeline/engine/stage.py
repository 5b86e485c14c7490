"""The stage contract: a stage is a function plus a version, an output class and, read off its signature, a config and inputs.

    @stage(version=1, output=FrameScores, plan=plan_videos)
    def score_frames(cfg: ScoreFrames, run: RunContext, questions: Questions, frames: Frames, *, out: ShardedOutput): ...

What changes the result is in `cfg` and in the inputs, and makes the identity. What changes only speed or place is in `run`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, field_validator, model_serializer

from cache.errors import CorruptArtifactError, SevilaError, StoreError, rebuild_hint, repair_hint
from cache.record import RECORD, Record, artifact_id
from cache.store import Store
from cache.tables import Schema, read_columns, read_rows, read_stored
from cache.untrusted import path_inside
from pipeline.devices import refuse_unknown_device, torch_device
from pipeline.engine.sources import Sources
from pipeline.engine.typed_rows import fields_of, rows_as, values_of
from pipeline.threads import usable_cores

TypedRow = TypeVar("TypedRow")


class Config(BaseModel):
    """Base of every stage's config: immutable, no unknown keys, no silent conversion, no path.

    `later` are the keys that came after the first artifacts were made, each at the value that stands for what was done before:
    at that value it is left out of identities and records, so that a new key rebuilds nothing.
    """

    later: ClassVar[Mapping[str, Any]] = {}

    # Validators are built when the first value is validated: most commands validate none, and there are thirty configs.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    @field_validator("*", mode="after")
    @classmethod
    def _no_path(cls, value: Any) -> Any:
        if isinstance(value, Path) or (isinstance(value, str) and value.startswith(("/", "./", "../", "~"))):
            raise ValueError(
                f"{str(value)!r} is a path; a recipe names data and weights; their paths on this machine are given "
                "on the command line, in the environment or in sevila.toml"
            )
        return value

    @model_serializer(mode="wrap")
    def _without_later(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return self.without_later(fields(self))

    def without_later(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values by key, as an identity has them; see the class."""
        return {key: value for key, value in values.items() if key not in self.later or value != self.later[key]}


@dataclass(frozen=True)
class RunContext:
    """How and where to run; never part of an identity.

    Attributes:
        device: a torch device, or `auto` for the first GPU if there is one.
        batch_tokens: tokens a forward pass may hold, padding included, and frames per ViT batch; None: what suits the device.
        decode_workers: processes that decode videos, by default one for each core; `shard_bytes`: size at which a shard is cut.
        sources: finds data and weights by name on this machine; `download`: may fetch these from the model hub.
        processes: processes that a training runs in; 0: one for each GPU, one without GPU or where `device` names one.
        checkpoint_minutes: a training stores its state so often, beside the end of every epoch.
        server_requests: questions that a server is asked at the same time; `..._per_minute`: requests a process sends at most.
        tensorboard: folder to which trainings also write their curves as TensorBoard events, if that is installed.
    """

    store: Store
    device: str = "auto"
    batch_tokens: int | None = None
    decode_workers: int = field(default_factory=usable_cores)
    shard_bytes: int = 1 << 30
    sources: Sources | None = None
    processes: int = 0
    checkpoint_minutes: float = 10.0
    tensorboard: Path | None = None
    server_requests: int = 4
    server_requests_per_minute: int | None = None
    download: bool = False

    def __post_init__(self) -> None:
        """Raise `SevilaError` for a device that torch does not have here, before any work is done."""
        refuse_unknown_device(self.device)

    @classmethod
    def of(cls, store: Store, options: Mapping[str, Any]) -> RunContext:
        """Return the context that options of a command or a deployment's form ask for; those of others are left alone."""
        own = {each.name: value for each in fields(cls) if (value := options.get(each.name)) is not None}
        return cls(store, shard_bytes=int(options["shard_megabytes"] * 2**20), **own)

    def torch_device(self) -> str:
        """Return the name of the torch device to use."""
        return torch_device(self.device)


class Input(Protocol):
    """An input of a stage: an artifact, or something from outside that is identified by its content."""

    @property
    def id(self) -> str | None:
        """The identity, or None as long as it is not known."""

    @property
    def problem(self) -> str:
        """Why it cannot be read now, for people; empty if it can."""


class Artifact:
    """A handle on one published artifact; subclasses declare its kind and tables and add readers."""

    kind: ClassVar[str]
    tables: ClassVar[dict[str, Schema]] = {}
    measured: ClassVar[tuple[str, ...]] = ()  # tables that hold wall-clock figures: equal runs differ in them

    def __init__(self, store: Store, id: str | None, problem: str = "") -> None:
        self.store = store
        self.id = id
        self.problem = problem
        self._record: Record | None = None
        self._checked: dict[str, Path] = {}

    def forget(self) -> None:
        """Read the record, and check the files, again: they may have been replaced since."""
        self._record = None
        self._checked.clear()

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
        return [path_inside(self.path, file) for file in self._names(name, suffix)]

    def checked_file(self, name: str) -> Path:
        """Return the path of one of the artifact's files after comparing it, once, with its SHA-256.

        Raises:
            CorruptArtifactError: the bytes are not those that were written.
        """
        if name not in self._checked:
            self._checked[name] = self.store.checked_file(self.record, name)
        return self._checked[name]

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Return all rows of a table as dicts; raises `CorruptArtifactError` if a byte of it has changed."""
        return read_rows(self.table_files(table), self.tables[table], self.record.rows.get(table, 0))

    def typed_rows(self, table: str, kind: type[TypedRow]) -> Sequence[TypedRow]:
        """Return all rows of a table as `kind`, a NamedTuple or dataclass; its fields are columns, others have defaults."""
        fields = fields_of(kind, self.tables[table].columns)
        columns = read_stored(self.table_files(table), self.tables[table], list(fields), self.record.rows.get(table, 0))
        return rows_as(kind, fields, columns, f"{self.path}, {table} ({rebuild_hint(self.path)})")

    def column(self, table: str, name: str) -> Sequence[Any]:
        """Return a column of a table, of a large one without a Python object for each row; raises like `columns`."""
        rows = self.record.rows.get(table, 0)
        return values_of(read_stored(self.table_files(table), self.tables[table], [name], rows))

    def columns(self, table: str, *names: str) -> dict[str, Any]:
        """Return named columns of a table as numpy arrays; raises like `rows`."""
        return read_columns(self.table_files(table), self.tables[table], names, self.record.rows.get(table, 0))

    def table_files(self, table: str) -> list[Path]:
        """Return the files of a table, each held as a whole against its SHA-256: what says where pages lie has no checksum."""
        names = self._names(table, ".parquet")
        if not names and (table in self.record.rows or self.record.is_stripped(self.path)):
            path = self.path / RECORD
            raise CorruptArtifactError(f"{path}: has a table {table} and names no file of it; {repair_hint(path)}")
        return [self.checked_file(name) for name in names]

    def _names(self, name: str, suffix: str) -> list[str]:
        starts = (f"{name}.", f"{name}/")
        return sorted(file for file in self.record.files if file.startswith(starts) and file.endswith(suffix))


class Plan(NamedTuple):
    """How an artifact is cut into shards: the items of each, and settings, such as a batch size, that decide bytes.

    Both are kept as JSON, in which a tuple is a list.
    """

    shards: list[list[Any]]
    settings: dict[str, Any] = {}


Produced = TypeVar("Produced", bound=Artifact, covariant=True)


@dataclass(frozen=True)
class Stage(Generic[Produced]):
    """A stage's declaration, made by `@stage`.

    Attributes:
        plan: returns the Plan of a stage whose artifact is made in shards, by any number of processes; takes what it needs, by
            name, of what the stage takes. The function gets a `ShardedOutput`. Called once per artifact: the plan is stored.
        resumes: goes on from what it left in its folder when it was killed; that of any other stage is cleared first.
        gpu: runs a model, so that one wants it on a machine with a GPU.
        plan_needs_rows: the identity of what comes after depends on its rows, so that a plan makes it, in a store of its own.
        later_inputs: those that came after the first artifacts were made: left out of identities where they are None.
        begins_on: the input on whose finished shards the stage can begin (pipeline/engine/ahead.py); empty: on none. Its
            function and plan take a shard as they take the input, and all that it computes goes through `out.pool`.
    """

    name: str
    version: int
    output: type[Produced]
    config: type[Config]
    inputs: tuple[str, ...]
    function: Callable[..., None]
    plan: Callable[..., Plan] | None = None
    resumes: bool = False
    gpu: bool = False
    plan_needs_rows: bool = False
    later_inputs: tuple[str, ...] = ()
    begins_on: str = ""

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.function) or "").split("\n")[0]

    def artifact_id(self, cfg: Config, inputs: Sequence[Input | None]) -> str | None:
        """Return the identity of what this stage makes of these, or None if an input's identity is not known."""
        if any(value is not None and value.id is None for value in inputs):
            return None
        return artifact_id(self.name, self.version, cfg.model_dump(mode="python"), self.input_ids(inputs))

    def draft(self, cfg: Config, inputs: Sequence[Input | None]) -> Record:
        """Return a record with what is known before the artifact is made; its id must be known."""
        id, config = self.artifact_id(cfg, inputs), cfg.model_dump(mode="json")
        assert id is not None, f"{self.name}: an input is not known"
        return Record(id, self.name, self.version, self.output.kind, config, self.input_ids(inputs))

    def input_ids(self, inputs: Sequence[Input | None]) -> dict[str, str | None]:
        """Return the identity of each input by its name; None for one that is left out."""
        return {
            name: value.id if value is not None else None
            for name, value in zip(self.inputs, inputs, strict=True)
            if value is not None or name not in self.later_inputs
        }


def stage(
    version: int,
    output: type[Produced],
    plan: Callable[..., Plan] | None = None,
    resumes: bool = False,
    gpu: bool = False,
    plan_needs_rows: bool = False,
    later_inputs: tuple[str, ...] = (),
    begins_on: str = "",
) -> Callable[[Callable[..., None]], Stage[Produced]]:
    """Declare a stage. Raise `version` by hand when the meaning of the code changes: every id below it changes then."""

    def declare(function: Callable[..., None]) -> Stage[Produced]:
        parameters = list(inspect.signature(function, eval_str=True).parameters.values())
        names = tuple(parameter.name for parameter in parameters)
        name, inputs = function.__name__, names[2:-1]
        if names[:2] != ("cfg", "run") or names[-1] != "out":
            raise SevilaError(
                f"{name} takes {', '.join(names) or 'nothing'}; expected cfg, run, inputs and, by name, out"
            )
        config = parameters[0].annotation
        if not (isinstance(config, type) and issubclass(config, Config)):
            raise SevilaError(f"{name}: the type of cfg is not given as a class derived from Config")
        needed = set(inspect.signature(plan).parameters) if plan else set()
        assert needed <= set(names[:-1]), f"{name}: a plan takes of what its stage takes: cfg, run, inputs..."
        assert {*later_inputs, begins_on} <= {*inputs, ""}, f"{name}: {later_inputs}, {begins_on!r} are not all inputs"
        more = (plan, resumes, gpu, plan_needs_rows, later_inputs, begins_on)
        return Stage(name, version, output, config, inputs, function, *more)

    return declare
