"""A recipe with its data and its store: plan it, run it, and read its results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack, get_args

from cache.errors import SevilaError, did_you_mean
from cache.store import Store
from pipeline.devices import refuse_unknown_device
from pipeline.engine.dry_run import DryRun, PlannedStep
from pipeline.engine.hardware import batch_tokens_of
from pipeline.engine.places import KINDS
from pipeline.engine.recipe import Recipe
from pipeline.engine.recipe import load as load_recipe
from pipeline.engine.stage import RunContext
from pipeline.engine.steps import Run
from pipeline.engine.toml_file import typed_value
from pipeline.recipes import opening
from pipeline.recipes.shorthands import Precision, settings_of
from pipeline.whole_numbers import whole_number
from reports.named_runs import pinned
from reports.summary import summary
from sevila.tables import ArtifactTables, Below, PathLike, open_store
from stages.all import STAGES
from stages.chain import chain_of

Place = PathLike | Mapping[str, PathLike]


class HowToRun(TypedDict, total=False):
    """Options of a run, with the command line's defaults (docs/options.md).

    Precision and limit become settings of the recipe; the others change only speed and place, never an identity.

    Keys:
        precision: float32, bfloat16, int8, fp8 or auto, for every stage that has one; `settings` win.
        limit: use only the first `limit` questions of each split.
        device: cpu, cuda, cuda:1, ...; auto: the first GPU, else the CPU.
        batch_tokens: tokens in a forward pass, or "auto".
        decode_workers: decoder processes; default: one per core.
        shard_bytes: size at which a new shard begins.
        processes: training processes; 0: one per GPU.
        download: download weights without a configured place from the Hugging Face Hub.
    """

    precision: Precision
    limit: int
    device: str
    batch_tokens: int | Literal["auto"]
    decode_workers: int
    shard_bytes: int
    processes: int
    download: bool


def load(
    recipe: PathLike,
    *,
    settings: Mapping[str, Any] | None = None,
    seed: int | None = None,
    annotations: Place | None = None,
    videos: Place | None = None,
    weights: Place | None = None,
    scores: Place | None = None,
    store: PathLike | None = None,
    below: Below = (),
    **how: Unpack[HowToRun],
) -> Experiment:
    """Return a checked recipe, ready to run; only the recipe is read.

        sevila.load("plain", settings={"select_keyframes.k": 8}, annotations="questions.csv", videos="videos",
                    weights={"Salesforce/blip2-flan-t5-xl": "/models/blip2-flan-t5-xl"})

    Args:
        recipe: name of a recipe (`sevila recipes`), or path of a .toml file.
        settings: changes of the recipe, `stage.key` -> value.
        seed: random seed of the stages, and of the demo's videos.
        annotations, videos, weights, scores: their places: one path for all names, or paths by name; default:
            `SEVILA_ANNOTATIONS` and so on, or sevila.toml, as for the command.
        store: folder of the artifacts; default: SEVILA_STORE, or .sevila in the current folder.
        below: one or several read-only stores below it.
        how: see `HowToRun`.

    Raises:
        SevilaError: the recipe, a setting or an option is invalid.
        TypeError: `how` has an unknown argument.
    """
    by_kind = {"annotations": annotations, "videos": videos, "weights": weights, "scores": scores}
    places = {kind: _places(place) for kind, place in by_kind.items()}
    options = _options(how)
    lines = [*_shorthands(how), *_settings(settings)]
    request = opening.Request(str(recipe), lines, seed, places)
    loaded = load_recipe(request.recipe, STAGES, lines, seed)
    return Experiment(loaded, open_store(store, below), request, options)


@dataclass(frozen=True)
class Experiment:
    """A recipe with its data and its store.

    Attributes:
        recipe: the recipe with every stage's config, defaults included.
    """

    recipe: Recipe
    store: Store
    request: opening.Request
    how: Mapping[str, Any]

    def plan(self) -> list[PlannedStep]:
        """Return what a run would do in each step, and why, without running, as `sevila plan`."""
        return self._dry_run()[0].steps

    def run(self, name: str = "", replace: bool = False) -> RunTables:
        """Run the chain, reusing artifacts in the store, and return its artifacts.

        Args:
            name: name under which the artifacts are kept (`sevila runs`).
            replace: whether to reassign the name if it belongs to another run.

        Raises:
            SevilaError: data or weights are missing, or the machine failed; the same call resumes finished work.
        """
        recipe, context, sources = opening.open_recipe(self.request, STAGES, RunContext(self.store, **self.how))
        seeds = [] if self.request.seed is None else [self.request.seed]
        with self.store.in_use(), pinned(self.store, name, recipe, seeds, replace) as pin:
            steps = Run(recipe, context, pin, chain=chain_of(recipe))
            outcome = chain_of(recipe)(recipe, steps, sources)
        return RunTables(list(map(ArtifactTables, steps.artifacts, steps.settings)), summary(steps.artifacts, outcome))

    def results(self) -> RunTables:
        """Return the artifacts of a finished run from the store, without running; videos and weights are not needed.

        Raises:
            SevilaError: a step has not been run.
        """
        dry_run, outcome = self._dry_run()
        missing = next((step for step in dry_run.steps if step.status != "exists"), None)
        if missing is not None:
            why = f"{missing.stage}{f' ({missing.setting})' if missing.setting else ''}: {missing.why}"
            raise SevilaError(
                f"{self.store.root} does not hold all results of {self.recipe.name!r}; run() first: {why}"
            )
        artifacts = [STAGES[step.stage].output(self.store, step.id) for step in dry_run.steps]
        tables = list(map(ArtifactTables, artifacts, (step.setting for step in dry_run.steps)))
        return RunTables(tables, summary(artifacts, outcome))

    def _dry_run(self) -> tuple[DryRun, Any]:
        context = RunContext(self.store, **self.how)
        recipe, context, sources = opening.open_recipe(self.request, STAGES, context, remembered=KINDS)
        dry_run, outcomes = DryRun(recipe, context), list[Any]()
        dry_run.walk(lambda *chain: outcomes.append(chain_of(recipe)(*chain)), sources)
        return dry_run, outcomes[0]


@dataclass(frozen=True)
class RunTables:
    """The artifacts of a run, in the chain's order; `run["answer_questions"].pandas()` is a table of one.

    Attributes:
        text: the summary that `sevila run` prints: artifacts, failures, metrics.
    """

    artifacts: Sequence[ArtifactTables]
    text: str

    def __getitem__(self, stage: str) -> ArtifactTables:
        """Return the only artifact of a stage; see `of`."""
        return self.of(stage)

    def of(self, stage: str, setting: str = "") -> ArtifactTables:
        """Return the artifact of a stage; `setting` selects one of several in a full chain, such as "uniform, zero-shot".

        Raises:
            SevilaError: there is none, or more than one.
        """
        of_stage = [tables for tables in self.artifacts if tables.stage == stage]
        chosen = {tables.id: tables for tables in of_stage if setting in ("", tables.setting)}
        if len(chosen) == 1:
            return next(iter(chosen.values()))
        if not of_stage:
            known = sorted({tables.stage for tables in self.artifacts})
            raise SevilaError(f"this run has no {stage!r}{did_you_mean(str(stage), known)}; stages: {', '.join(known)}")
        settings = [tables.setting for tables in of_stage if tables.setting]
        problem = f"several {stage!r}" if chosen else f"no {stage!r} with setting {setting!r}"
        raise SevilaError(f"this run has {problem}; settings: {'; '.join(settings) or 'none'}")


def _places(place: Place | None) -> list[str]:
    if isinstance(place, Mapping):
        return [f"{name}={path}" for name, path in place.items()]
    return [] if place is None else [str(place)]


def _shorthands(how: Mapping[str, Any]) -> list[str]:
    precision = how.get("precision")
    if precision not in (None, *get_args(Precision)):
        raise SevilaError(f"precision {precision!r}: expected one of {', '.join(get_args(Precision))}")
    return settings_of(STAGES, precision, how.get("limit"), how.get("device", "auto"))


def _options(how: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments for `RunContext`."""
    options, known = dict(how), HowToRun.__annotations__
    for name in options:
        if name not in known:
            raise TypeError(f"load() got an unexpected keyword argument {name!r}{did_you_mean(name, known)}")
    refuse_unknown_device(options.get("device", "auto"))
    for name, minimum in {"batch_tokens": 1, "decode_workers": 1, "shard_bytes": 1, "processes": 0}.items():
        if name in options and (name, options[name]) != ("batch_tokens", "auto"):
            options[name] = whole_number(name, options[name], minimum)
    if "batch_tokens" in options:
        options["batch_tokens"] = batch_tokens_of(options["batch_tokens"], options.get("device", "auto"))
    return {name: value for name, value in options.items() if name not in ("precision", "limit")}


def _settings(settings: Mapping[str, Any] | None) -> list[str]:
    if not isinstance(settings, Mapping | None):
        raise SevilaError(
            f"settings: a {type(settings).__name__}; expected a dict, such as {{'select_keyframes.k': 8}}"
        )
    return [_setting(key, value) for key, value in (settings or {}).items()]


def _setting(key: str, value: Any) -> str:
    """Return a setting in the form of `--set`."""
    return f"{key}={value if isinstance(value, str) and typed_value(value) == value else _toml(value)}"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{json.dumps(key)} = {_toml(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    # numpy scalars as Python numbers; paths as text, for which the recipe's error names the way out.
    return json.dumps(value, default=lambda other: other.item() if hasattr(other, "item") else str(other))
