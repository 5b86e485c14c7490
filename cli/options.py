"""Options that several commands of `sevila` share; `--help` shows the descriptions of the attributes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_origin

from cyclopts import Group, Parameter, Token
from cyclopts.validators import Number
from cyclopts.validators import Path as PathKind

if TYPE_CHECKING:
    from cache.store import Store
    from pipeline.engine.recipe import Recipe
    from pipeline.engine.sources import Sources
    from pipeline.engine.stage import RunContext
    from pipeline.recipes.opening import Request


class UsageError(Exception):
    """The arguments fit no command; the message is for the user."""


def refuse_overwriting(output: Path | None, *read: Path) -> None:
    """Raise `UsageError` if a command would overwrite a file that it reads."""
    for path in read:
        if output is not None and output.is_file() and path.exists() and output.samefile(path):
            raise UsageError(f"--output {output}: is {path}, an input of the command; give another file")


def refuse_other_suffix(output: Path | None, suffixes: Sequence[str], content: str) -> None:
    """Raise `UsageError` if a file's suffix contradicts its format."""
    if output is not None and (output.suffix.lower() not in (*suffixes, "") or output.is_dir()):
        raise UsageError(f"--output {output}: expected a file that ends in {' or '.join(suffixes)} for {content}")


DEFAULT_STORE = Path(".sevila")

PLACE_GROUP = Group.create_ordered("Places")
EXECUTION = Group.create_ordered("Speed and place: never part of an artifact's identity")
EVERYWHERE = Group.create_ordered("Every command")


@dataclass(frozen=True)
class StorePlace:
    """The place of the artifacts: the root of the store, and of read-only stores below it."""

    root: Path
    below: Sequence[Path]

    def open(self) -> Store:
        """Return the store, layered over the stores in the options and in the environment."""
        from cache.store import Store, stores_below

        return Store(self.root, [*self.below, *stores_below()])


def _integers(kind: Any, tokens: Sequence[Token]) -> int | list[int]:
    numbers = []
    for token in tokens:
        try:
            numbers.append(int(token.value))
        except ValueError as error:
            option = f"{token.keyword}: " if len(tokens) > 1 else ""  # for a single value, cyclopts adds it
            raise ValueError(f"{option}expected an integer, not {token.value!r}") from error
    return numbers if kind is not int else numbers[0]


def _integer_or_auto(_: Any, tokens: Sequence[Token]) -> Any:
    return "auto" if tokens[0].value == "auto" else _integers(int, tokens)


def _positive_or_auto(kind: Any, value: Any) -> None:
    if value != "auto":
        Number(gt=0, lt=LIMIT)(kind, value)


def _path(kind: Any, tokens: Sequence[Token]) -> Path | list[Path]:
    if not all(token.value for token in tokens):  # probably an unset variable; Path("") is "."
        raise ValueError("expected a path, not an empty name")
    paths = [Path(token.value) for token in tokens]
    return paths if get_origin(kind) is Sequence else paths[0]


def _not_empty(_: Any, value: str) -> None:
    if value == "":
        raise ValueError("Leave the option out for a run without a name.")


def _no_empty_text(_: Any, value: str | Sequence[str] | None) -> None:
    if value == "" or not all(value or ()):  # probably an unset variable; "" is a prefix of every id
        raise ValueError("It must not be empty.")


LIMIT = 1e15  # for counts, so that 64 bits suffice for computations

# The converter is needed as cyclopts rounds 1.5 to 2.
Count = Annotated[int, Parameter(converter=_integers, validator=Number(gte=0, lt=LIMIT), metavar="N")]
Positive = Annotated[int, Parameter(converter=_integers, validator=Number(gt=0, lt=LIMIT), metavar="N")]
Port = Annotated[int, Parameter(converter=_integers, validator=Number(gt=0, lt=65536), metavar="N")]
Days = Annotated[float, Parameter(validator=Number(gte=0, lt=LIMIT), metavar="DAYS")]
Seeds = Annotated[
    Sequence[int],
    Parameter(converter=_integers, validator=Number(gte=0, lt=LIMIT), metavar="N...", consume_multiple=(1, None)),
]
SeedOption = Annotated[Count | None, Parameter(help="random seed of the stages, and of the demo's videos")]
SettingsOption = Annotated[
    Sequence[str], Parameter("--set", metavar="STAGE.KEY=VALUE", help="change one key of the recipe (repeatable)")
]
ReportOption = Annotated[
    bool,
    Parameter(
        negative="--no-report",
        env_var="SEVILA_REPORT",
        help="write a report page at the end of the run; disable with --no-report, or SEVILA_REPORT=no",
    ),
]
TokensOption = Annotated[
    int | Literal["auto"] | None, Parameter(converter=_integer_or_auto, validator=_positive_or_auto, metavar="N|auto")
]
PrecisionOption = Annotated[
    Literal["float32", "bfloat16", "int8", "fp8", "auto"] | None,
    Parameter(
        help="precision of all stages, instead of a --set for each; auto: float32 on a CPU, bfloat16 on a GPU (features: "
        "float16); int8, fp8: for the language model in inference, auto elsewhere"
    ),
]
LimitOption = Annotated[
    Positive | None, Parameter(help="use only the first N questions of each split: --set list_questions.limit=N")
]
Text = Annotated[str, Parameter(validator=_no_empty_text)]
Texts = Annotated[Sequence[str], Parameter(validator=_no_empty_text)]
Names = Annotated[Sequence[str], Parameter(metavar="NAME...", consume_multiple=(1, None), validator=_no_empty_text)]
RunNameOption = Annotated[str | None, Parameter(validator=_not_empty)]
OutputPath = Annotated[Path, Parameter(alias="-o", converter=_path, metavar="PATH")]
OutputFolder = Annotated[Path | None, Parameter(alias="-o", converter=_path, metavar="FOLDER")]
OutputFile = Annotated[
    Path | None, Parameter(alias="-o", converter=_path, validator=PathKind(dir_okay=False), metavar="FILE")
]
SubmissionFile = Annotated[Path | None, Parameter(converter=_path, validator=PathKind(dir_okay=False), metavar="FILE")]
PlaceOption = Annotated[Sequence[str], Parameter(metavar="[NAME=]PATH")]
Folder = Annotated[Path, Parameter(converter=_path, metavar="FOLDER")]
Folders = Annotated[Sequence[Path], Parameter(converter=_path, metavar="FOLDER")]
AsJson = Annotated[bool, Parameter("--json", help="print JSON")]

# Values that `sevila` itself passes to commands: the place of the store, and the command as typed.
Where = Annotated[StorePlace, Parameter(parse=False)]
CommandLine = Annotated[str, Parameter(parse=False)]


@Parameter(name="*", group=PLACE_GROUP)
@dataclass(frozen=True, kw_only=True)
class DataPlaces:
    """Places of the data.

    Attributes:
        annotations: annotation file, or folder of downloaded files; default: SEVILA_ANNOTATIONS, sevila.toml (repeatable)
        videos: folder of the videos; default: SEVILA_VIDEOS, sevila.toml (repeatable)
    """

    annotations: PlaceOption = ()
    videos: PlaceOption = ()

    def by_kind(self) -> dict[str, list[str]]:
        """Return the given places by kind."""
        return {kind: list(places) for kind, places in vars(self).items()}

    def paths(self) -> list[Path]:
        """Return all given paths, without their names."""
        return [Path(place.rpartition("=")[2]) for places in vars(self).values() for place in places]


@Parameter(name="*", group=PLACE_GROUP)
@dataclass(frozen=True, kw_only=True)
class PlaceOptions(DataPlaces):
    """Places of data and weights.

    Attributes:
        weights: file or folder of weights, by their name in the recipe; default: SEVILA_WEIGHTS, sevila.toml (repeatable)
        scores: external frame scores: a table, or a folder with AKS's lists; default: SEVILA_SCORES, sevila.toml (repeatable)
    """

    weights: PlaceOption = ()
    scores: PlaceOption = ()


@Parameter(name="*", group=EXECUTION)
@dataclass(frozen=True, kw_only=True)
class Inference:
    """How to run models.

    Attributes:
        device: cpu, cuda, cuda:1, ...; auto: the first GPU, else the CPU
        batch_tokens: tokens in a forward pass; auto: as many as fit on a GPU; default: 4,096 on a CPU, 32,768 on a GPU
    """

    device: str = "auto"
    batch_tokens: TokensOption = None

    def as_options(self) -> dict[str, Any]:
        """Return all options by name, with `auto` replaced by a number of tokens for the device."""
        from pipeline.engine.hardware import batch_tokens_of

        return vars(self) | {"batch_tokens": batch_tokens_of(self.batch_tokens, self.device)}


@Parameter(name="*", group=EXECUTION)
@dataclass(frozen=True, kw_only=True)
class ExecutionOptions(Inference):
    """How to run a chain.

    Attributes:
        decode_workers: decoder processes; default: one per core
        shard_megabytes: size at which a new shard begins
        processes: training processes; 0: one per GPU, or one without a GPU or with --device
        server_requests: concurrent requests to a server ([answer_with_vlm] served)
        server_requests_per_minute: limit of requests to the server, retries included; default: no limit
        download: download weights without a configured place from the Hugging Face Hub (docs/weights.md)
        tensorboard: also write training curves to this folder
    """

    decode_workers: Positive | None = None
    shard_megabytes: Annotated[float, Parameter(validator=Number(gt=0, lt=LIMIT), metavar="MB")] = 1024.0
    processes: Count = 0
    server_requests: Positive = 4
    server_requests_per_minute: Positive | None = None
    download: bool = False
    tensorboard: Annotated[Path | None, Parameter(metavar="FOLDER")] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Naming:
    """The name of a run.

    Attributes:
        name: keep all artifacts that the run makes or reuses under a name (`sevila runs` lists them)
        replace: reassign the name if it belongs to another run
    """

    name: RunNameOption = None
    replace: bool = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ChainOptions:
    """A recipe's chain: changes of the recipe, places of its data, and how to run it."""

    settings: SettingsOption = ()
    precision: PrecisionOption = None
    limit: LimitOption = None
    places: PlaceOptions = PlaceOptions()
    execution: ExecutionOptions = ExecutionOptions()

    def all_settings(self) -> list[str]:
        """Return all `stage.key=value` settings: those of --precision and --limit, then those of --set, which win."""
        if self.precision is None and self.limit is None:
            return list(self.settings)
        from pipeline.recipes.shorthands import settings_of
        from stages.all import STAGES

        return [*settings_of(STAGES, self.precision, self.limit, self.execution.device), *self.settings]

    def request(self, recipe: str, seed: int | None) -> Request:
        """Return the request for a recipe with these changes and places."""
        from pipeline.recipes.opening import Request

        return Request(recipe, self.all_settings(), seed, self.places.by_kind())

    def run_in(self, store: Store) -> RunContext:
        """Return the run context for a store."""
        from pipeline.engine.stage import RunContext

        return RunContext.of(store, self.execution.as_options())

    def open(
        self, recipe: str, seed: int | None, store: Store, remembered: Collection[str] = ()
    ) -> tuple[Recipe, RunContext, Sources]:
        """Return the recipe, its run context and its sources; `remembered` as for `Sources`."""
        from pipeline.recipes.opening import open_recipe
        from stages.all import STAGES

        return open_recipe(self.request(recipe, seed), STAGES, self.run_in(store), remembered)
