"""The subject of a report: a run by name, recipe or artifact, with its evaluated settings and all their artifacts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar, get_args

from cache.errors import StoreError
from cache.id_prefixes import find
from cache.lineage import ancestry
from cache.names import NamedRun, Pin, every_name, every_run, named_run
from cache.record import Record
from cache.store import Store
from pipeline.engine.recipe import LOCALIZERS
from pipeline.engine.stage import Artifact
from pipeline.recipes.results import Column
from reports.stale import warn_if_stale
from stages.all import STAGES
from stages.make_thumbnails import make_thumbnails

Kind = TypeVar("Kind", bound=Artifact)
ANSWERED_COLUMNS: Sequence[Column] = get_args(Column)[:3]  # columns of accuracies, in the order of the terminal's table
SWEPT = re.compile(r"(.+, k = (\d+))(?:, answered by (.+))?")  # names of the cells of `sevila sweep`
EVALUATIONS = ("evaluate", "evaluate_moments")
SCORERS = {
    "refine_localizer": LOCALIZERS["refined"],
    "pretrain_localizer": LOCALIZERS["pretrained"],
    "init_localizer": LOCALIZERS["untrained"],
}
OTHER_SCORES = {
    "score_by_similarity": "CLIP",
    "score_by_matching": "image-text matching",
    "import_scores": "imported scores",
    "score_by_selector": "selector trained on answers",
}


@dataclass(frozen=True)
class EvaluatedSetting:
    """An evaluated combination of keyframes and answers; all artifacts are given by id.

    Attributes:
        row: The selector of the keyframes, as in the table of results.
        column: How the questions were answered, as in the table of results.
        answers: None for moment queries.
        moments: None for questions with options.
        localization: Localization metrics of the keyframes; None if the true moments are not known.
    """

    row: str
    column: str
    metrics: str
    questions: str
    frames: str
    keyframes: str | None
    scores: str | None
    answers: str | None = None
    moments: str | None = None
    localization: str | None = None

    @property
    def name(self) -> str:
        """The display name."""
        return f"{self.row}, {self.column}"

    @property
    def is_swept(self) -> bool:
        """Whether it is a cell of a sweep."""
        return SWEPT.fullmatch(self.row) is not None

    @property
    def uniform_row(self) -> str:
        """The row of the uniform frames that it is compared with, in a sweep of the same number."""
        seed, colon, _ = self.row.rpartition(": ")  # a run of several seeds has the seed in its rows
        swept = SWEPT.fullmatch(self.row)
        return f"uniform, k = {swept[2]}" if swept else f"{seed}{colon}uniform"


@dataclass(frozen=True)
class ReportedRun:
    """A run to report on; `pins` are its distinct steps in their order; `started` is "" if it is not known."""

    title: str
    recipe: str
    started: str
    store: Store
    pins: Sequence[Pin]
    settings: Sequence[EvaluatedSetting]

    @property
    def headline(self) -> EvaluatedSetting:
        """The last setting of the run."""
        return self.settings[-1]

    @property
    def baseline(self) -> EvaluatedSetting | None:
        """Uniform frames with the headline's answerer; None if they are the headline, or were not evaluated."""
        key = self.headline.uniform_row, self.headline.column
        uniform = next((setting for setting in self.settings if (setting.row, setting.column) == key), None)
        return uniform if uniform != self.headline else None

    def artifacts(self, stage: str) -> list[tuple[str, Artifact]]:
        """Return the run's distinct artifacts of one stage that the store holds, as (setting, artifact) pairs."""
        kind, ids = STAGES[stage].output, dict[str, str]()
        for pin in self.pins:
            if pin.stage == stage and self.store.exists(pin.id):
                ids.setdefault(pin.id, pin.setting)
        return [(setting, kind(self.store, id)) for id, setting in ids.items()]

    def records(self) -> list[Record]:
        """Return the distinct records of its artifacts."""
        return [self.store.record(id) for id in dict.fromkeys(pin.id for pin in self.pins) if self.store.exists(id)]


def title_of(recipe: str, seeds: Sequence[int]) -> str:
    """Return the title of a run without a name."""
    return f"{recipe}, seed{'s' if len(seeds) > 1 else ''} {' '.join(map(str, seeds))}" if seeds else recipe


def run_of_steps(
    title: str, recipe: str, started: str, store: Store, steps: Sequence[Artifact], settings: Sequence[str]
) -> ReportedRun:
    """Return a run that has just ended; `settings` are those of `steps`."""
    pins = [Pin(str(step.id), step.record.stage, setting) for step, setting in zip(steps, settings, strict=True)]
    return _run(title, recipe, started, store, pins)


def reported_run(store: Store, name: str) -> ReportedRun:
    """Return the run with this name, the last run of the recipe with this name, or the run of the artifact with this id.

    Raises:
        StoreError: There is none, or it has no evaluation.
    """
    run = _run_named(store, name)
    warn_if_stale(store, run.headline.metrics)
    return run


def _run_named(store: Store, name: str) -> ReportedRun:
    if name in every_name(store):
        return _run_of_name(name, named_run(store, name), store)
    if last := _last_run_of_recipe(store, name.removesuffix(".toml").rpartition("/")[2]):
        return _run_of_name(title_of(last.recipe, last.seeds), last, store)
    try:
        id = find(store, name)
    except StoreError as error:
        raise StoreError(
            f"{name!r} is no run's name (`sevila runs`), no recipe that this store has run, and no artifact's id: {error}"
        ) from error
    return _run_of_artifact(store, store.record(id))


def _last_run_of_recipe(store: Store, recipe: str) -> NamedRun | None:
    runs = [run for run, _ in every_run(store) if run.recipe == recipe and run.status != "running"]
    evaluated = [run for run in runs if _evaluations(store, run.artifacts)]
    return max(evaluated, key=lambda run: run.started, default=None)


def _run_of_name(title: str, run: NamedRun, store: Store) -> ReportedRun:
    # Artifacts of earlier runs under the same name come last; for each step, keep the first that is stored.
    steps = {(pin.stage, pin.setting): pin for pin in reversed(run.artifacts) if store.exists(pin.id)}
    kept = set(steps.values())
    pins = [pin for pin in run.artifacts if pin in kept]
    return _run(title, run.recipe, run.started, store, pins)


def _run_of_artifact(store: Store, record: Record) -> ReportedRun:
    """Return the chain of one evaluation, or of the newest evaluation that depends on an artifact."""
    if record.stage not in EVALUATIONS:
        evaluations = [evaluation for stage in EVALUATIONS for evaluation in store.of_stage(stage)]
        uses = [evaluation for evaluation in evaluations if record.id in ancestry(store, evaluation.id)]
        if not uses:
            raise StoreError(f"{record.id}: no evaluation depends on it; `sevila run` with its recipe builds one")
        return _run_of_artifact(store, max(uses, key=lambda use: use.finished))
    chain = [origin.record for origin in ancestry(store, record.id).values() if origin.record is not None]
    ids = {link.id for link in chain}
    localizations = [link for link in store.of_stage("evaluate_localization") if link.inputs["keyframes"] in ids]
    pins = [Pin(link.id, link.stage, "") for link in [*reversed(chain), *localizations[:1]]]
    return _run(record.id, "", "", store, pins)


def _evaluations(store: Store, pins: Iterable[Pin]) -> list[Pin]:
    return [pin for pin in pins if pin.stage in EVALUATIONS and store.exists(pin.id)]


def _run(title: str, recipe: str, started: str, store: Store, pins: Sequence[Pin]) -> ReportedRun:
    pins = [pin for pin in dict.fromkeys(pins) if pin.stage in STAGES and pin.stage != make_thumbnails.name]
    localizations = [store.record(pin.id) for pin in pins if pin.stage == "evaluate_localization"]
    by_keyframes = {record.inputs["keyframes"]: record.id for record in localizations}
    chosen = {pin.setting: pin.id for pin in pins if pin.stage == "select_keyframes"}
    settings = [_setting(store, pin, by_keyframes, chosen) for pin in _evaluations(store, pins)]
    if not settings:
        raise StoreError(f"{title}: has no evaluation to report on")
    return ReportedRun(title, recipe, started, store, pins, settings)


def _setting(store: Store, pin: Pin, localizations: dict[str | None, str], chosen: dict[str, str]) -> EvaluatedSetting:
    record = store.record(pin.id)
    questions = str(record.inputs["questions"])
    if pin.stage == "evaluate_moments":
        moments = store.record(str(record.inputs["moments"]))
        frames, scores = str(moments.inputs["frames"]), moments.inputs["scores"]
        row = _chosen_by(store, {}, scores)
        return EvaluatedSetting(row, "moments", pin.id, questions, frames, None, scores, moments=moments.id)
    answers = store.record(str(record.inputs["answers"]))
    swept = SWEPT.fullmatch(pin.setting)
    # A cell of a sweep may share the answers of a cell with the same frames.
    keyframes = store.record(chosen[pin.setting] if swept else str(answers.inputs["keyframes"]))
    frames, scores = str(keyframes.inputs["frames"]), keyframes.inputs["scores"]
    chosen_by = swept[1] if swept else _chosen_by(store, keyframes.config, scores)
    answerer = swept[3] if swept and "=" in (swept[3] or "") else None  # with a model's name or config keys
    row, column = _full_chain_cell(pin.setting) or (chosen_by, answerer or _answered(answers))
    localization = localizations.get(keyframes.id)
    return EvaluatedSetting(
        row, column, pin.id, questions, frames, keyframes.id, scores, answers.id, localization=localization
    )


def _full_chain_cell(setting: str) -> tuple[str, str] | None:
    """Return the row and column in the name of a full chain's setting; None for another setting."""
    columns = [column for column in ANSWERED_COLUMNS if setting.endswith(f", {column}")]
    return (setting.removesuffix(f", {columns[0]}"), columns[0]) if columns else None


def _chosen_by(store: Store, config: dict[str, object], scores: str | None) -> str:
    method = config.get("method", "localizer")
    if method != "localizer" or scores is None or not store.exists(scores):
        return str(method)
    row = OTHER_SCORES.get(store.record(scores).stage) or _localizer(
        store, store.record(scores).inputs.get("localizer")
    )
    selector = config.get("selector", "top_k")
    return row if selector == "top_k" else f"{row}, {selector}"


def _localizer(store: Store, weights: str | None) -> str:
    stage = (weights or "").rsplit("-v", 1)[0]
    is_released = (
        stage == "init_localizer" and store.exists(weights or "") and store.record(str(weights)).config["weights"]
    )
    return LOCALIZERS["pretrained"] if is_released else SCORERS.get(stage, "Localizer")


def _answered(answers: Record) -> str:
    if answers.stage != "answer_questions":  # answered by another model
        return str(answers.config.get("served") or answers.config.get("weights") or answers.stage.replace("_", " "))
    if str(answers.inputs["answerer"]).startswith("finetune_answerer"):
        return "fine-tuned"
    return "zero-shot, voting" if answers.config.get("method") == "vote" else "zero-shot"


def stored_as(store: Store, id: str, kind: type[Kind]) -> Kind:
    """Return an artifact as the output class of its stage, because several stages produce scores, or answers."""
    artifact = STAGES[store.record(id).stage].output(store, id)
    assert isinstance(artifact, kind)
    return artifact
