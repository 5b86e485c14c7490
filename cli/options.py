"""Options that several commands of `sevila` share; the attributes' texts are what `--help` says of them."""

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
    """The arguments fit no command; the message is for people."""


def refuse_overwriting(output: Path | None, *read: Path) -> None:
    """Raise `UsageError` where a command would write over a file that it reads."""
    for path in read:
        if output is not None and output.is_file() and path.exists() and output.samefile(path):
            raise UsageError(f"--output {output}: is {path}, which is read; another file was wanted")


def refuse_other_suffix(output: Path | None, suffixes: Sequence[str], what: str) -> None:
    """Raise `UsageError` where a file's name promises another format than it would have."""
    if output is not None and (output.suffix.lower() not in (*suffixes, "") or output.is_dir()):
        raise UsageError(f"--output {output}: wanted a file that ends in {' or '.join(suffixes)} for {what}")


DEFAULT_STORE = Path(".sevila")

PLACE_GROUP = Group.create_ordered("Places")
EXECUTION = Group.create_ordered("Speed and place: never part of an artifact's identity")
EVERYWHERE = Group.create_ordered("Every command")


@dataclass(frozen=True)
class StorePlace:
    """Where the artifacts lie: the store that is written, and the stores below it that are only read."""

    root: Path
    below: Sequence[Path]

    def open(self) -> Store:
        """Return the store, over the stores below it that the options and the environment name."""
        from cache.store import Store, stores_below

        return Store(self.root, [*self.below, *stores_below()])


def _whole(kind: Any, tokens: Sequence[Token]) -> int | list[int]:
    numbers = []
    for token in tokens:
        try:
            numbers.append(int(token.value))
        except ValueError as error:
            option = f"{token.keyword}: " if len(tokens) > 1 else ""  # of a single one, cyclopts says it
            raise ValueError(f"{option}wanted a whole number, not {token.value!r}") from error
    return numbers if kind is not int else numbers[0]


def _whole_or_auto(_: Any, tokens: Sequence[Token]) -> int | str:
    if tokens[0].value == "auto":
        return "auto"
    number = _whole(int, tokens)
    assert isinstance(number, int)
    return number


def _positive_or_auto(kind: Any, value: Any) -> None:
    if value != "auto":
        Number(gt=0, lt=MOST)(kind, value)


def _path(kind: Any, tokens: Sequence[Token]) -> Path | list[Path]:
    if not all(token.value for token in tokens):  # an unset variable, most likely; a Path would make "." of it
        raise ValueError("wanted a path, not an empty name")
    paths = [Path(token.value) for token in tokens]
    return paths if get_origin(kind) is Sequence else paths[0]


def _not_empty(_: Any, value: str) -> None:
    if value == "":
        raise ValueError("Leave the option out for a run without a name.")


def _no_empty_text(_: Any, value: str | Sequence[str] | None) -> None:
    if value == "" or not all(value or ()):  # an unset variable, most likely; every id begins with it
        raise ValueError("It must not be empty.")


MOST = 1e15  # of anything that is counted; what computes with it takes 64 bits

# cyclopts' own numbers take 1.5 for 2.
Count = Annotated[int, Parameter(converter=_whole, validator=Number(gte=0, lt=MOST), metavar="N")]
Positive = Annotated[int, Parameter(converter=_whole, validator=Number(gt=0, lt=MOST), metavar="N")]
Port = Annotated[int, Parameter(converter=_whole, validator=Number(gt=0, lt=65536), metavar="N")]
Days = Annotated[float, Parameter(validator=Number(gte=0, lt=MOST), metavar="DAYS")]
Seeds = Annotated[
    Sequence[int],
    Parameter(converter=_whole, validator=Number(gte=0, lt=MOST), metavar="N...", consume_multiple=(1, None)),
]
SeedOption = Annotated[
    Count | None, Parameter(help="seed of all that is random in the stages, and of the demo's world")
]
SettingsOption = Annotated[
    Sequence[str], Parameter("--set", metavar="STAGE.KEY=VALUE", help="change one key of the recipe (repeatable)")
]
ReportOption = Annotated[
    bool,
    Parameter(
        negative="--no-report",
        env_var="SEVILA_REPORT",
        help="write a page about the run at its end; not with --no-report, or where SEVILA_REPORT is no",
    ),
]
TokensOption = Annotated[
    int | Literal["auto"] | None, Parameter(converter=_whole_or_auto, validator=_positive_or_auto, metavar="N|auto")
]
PrecisionOption = Annotated[
    Literal["float32", "bfloat16", "int8", "fp8", "auto"] | None,
    Parameter(
        help="arithmetic of every stage, for a --set of each; auto: float32 on a CPU, on a GPU bfloat16 (features: float16); "
        "int8, fp8: of the language model where it only reads, else auto"
    ),
]
LimitOption = Annotated[
    Positive | None, Parameter(help="ask the first N questions of each split only: --set list_questions.limit=N")
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

# What the commands take from `sevila` itself: where the store is, and the command as it was typed.
Where = Annotated[StorePlace, Parameter(parse=False)]
CommandLine = Annotated[str, Parameter(parse=False)]


@Parameter(name="*", group=PLACE_GROUP)
@dataclass(frozen=True, kw_only=True)
class DataPlaces:
    """Where the data are.

    Attributes:
        annotations: annotation file, or folder of the files as downloaded; else SEVILA_ANNOTATIONS, sevila.toml (repeatable)
        videos: folder of the videos; else SEVILA_VIDEOS, sevila.toml (repeatable)
    """

    annotations: PlaceOption = ()
    videos: PlaceOption = ()

    def by_kind(self) -> dict[str, list[str]]:
        """Return what was given for each kind of place."""
        return {kind: list(places) for kind, places in vars(self).items()}

    def paths(self) -> list[Path]:
        """Return every path that was given, without the name it is for."""
        return [Path(place.rpartition("=")[2]) for places in vars(self).values() for place in places]


@Parameter(name="*", group=PLACE_GROUP)
@dataclass(frozen=True, kw_only=True)
class PlaceOptions(DataPlaces):
    """Where data and weights are.

    Attributes:
        weights: weights by the name the recipe gives them: a folder or a file; else SEVILA_WEIGHTS, sevila.toml (repeatable)
        scores: frame scores made elsewhere: a table, or a folder with AKS's lists; else SEVILA_SCORES, sevila.toml (repeatable)
    """

    weights: PlaceOption = ()
    scores: PlaceOption = ()


@Parameter(name="*", group=EXECUTION)
@dataclass(frozen=True, kw_only=True)
class Inference:
    """How to run models.

    Attributes:
        device: cpu, cuda, cuda:1, ...; auto: the first GPU, else the CPU
        batch_tokens: tokens in a forward pass; auto: on a GPU, as many as fit; else 4,096 on a CPU, 16,384 on a GPU
    """

    device: str = "auto"
    batch_tokens: TokensOption = None

    def as_options(self) -> dict[str, Any]:
        """Return every option by name, with the number of tokens that `auto` stands for on the device."""
        from pipeline.engine.hardware import batch_tokens_of

        return vars(self) | {"batch_tokens": batch_tokens_of(self.batch_tokens, self.device)}


@Parameter(name="*", group=EXECUTION)
@dataclass(frozen=True, kw_only=True)
class ExecutionOptions(Inference):
    """How to run a chain.

    Attributes:
        decode_workers: processes that decode; else one for each core
        shard_megabytes: size at which a shard is cut
        processes: processes of a training; 0: one for each GPU, one without GPU or where --device names one
        server_requests: questions that a server is asked at once ([answer_with_vlm] served)
        server_requests_per_minute: requests that it is sent at most, repeated ones included; else as many as it takes
        download: fetch weights that nobody placed from the Hugging Face Hub (docs/weights.md)
        tensorboard: write training curves there as well
    """

    decode_workers: Positive | None = None
    shard_megabytes: Annotated[float, Parameter(validator=Number(gt=0, lt=MOST), metavar="MB")] = 1024.0
    processes: Count = 0
    server_requests: Positive = 4
    server_requests_per_minute: Positive | None = None
    download: bool = False
    tensorboard: Annotated[Path | None, Parameter(metavar="FOLDER")] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Naming:
    """Under which name a run is kept.

    Attributes:
        name: keep everything that the run makes or reuses under a name (`sevila runs` lists them)
        replace: let the name stand for this run, whatever it stood for before
    """

    name: RunNameOption = None
    replace: bool = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ChainOptions:
    """A recipe's chain: what is changed in the recipe, where its data are, and how it is run."""

    settings: SettingsOption = ()
    precision: PrecisionOption = None
    limit: LimitOption = None
    places: PlaceOptions = PlaceOptions()
    execution: ExecutionOptions = ExecutionOptions()

    def all_settings(self) -> list[str]:
        """Return every `stage.key=value`: what the words for many stand for, then those that were typed, which win."""
        if self.precision is None and self.limit is None:
            return list(self.settings)
        from pipeline.recipes.shorthands import settings_of
        from stages.all import STAGES

        return [*settings_of(STAGES, self.precision, self.limit, self.execution.device), *self.settings]

    def request(self, recipe: str, seed: int | None) -> Request:
        """Return what is asked for of a recipe."""
        from pipeline.recipes.opening import Request

        return Request(recipe, self.all_settings(), seed, self.places.by_kind())

    def run_in(self, store: Store) -> RunContext:
        """Return how and where to run."""
        from pipeline.engine.stage import RunContext

        return RunContext.of(store, self.execution.as_options())

    def open(
        self, recipe: str, seed: int | None, store: Store, remembered: Collection[str] = ()
    ) -> tuple[Recipe, RunContext, Sources]:
        """Return the recipe, how and where to run it, and its sources; `remembered` is as for `Sources`."""
        from pipeline.recipes.opening import open_recipe
        from stages.all import STAGES

        return open_recipe(self.request(recipe, seed), STAGES, self.run_in(store), remembered)
