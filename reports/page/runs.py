"""What a report is about: the evaluated settings of a run, however it was named, and all that they were made from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar, get_args

from cache.errors import StoreError
from cache.lineage import ancestry
from cache.matching import find
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
ANSWERED_COLUMNS: Sequence[Column] = get_args(Column)[:3]  # of accuracies, in the order of the terminal's table
SWEPT = re.compile(r"(.+, k = (\d+))(?:, answered by (.+))?")  # what `sevila sweep` calls its cells
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
    """One way to choose keyframes and to answer, evaluated.

    Attributes:
        row: who chose the keyframes; `column`: how the questions were answered; both as in the table of results.
        metrics: id of its evaluation.
        answers: id; None where queries ask for moments.
        moments: id; None where questions have options.
        localization: id of how well the keyframes hit true moments; None where these are not known.
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
        """What tells it from others, for people."""
        return f"{self.row}, {self.column}"

    @property
    def is_swept(self) -> bool:
        """Whether it is a cell of a sweep."""
        return SWEPT.fullmatch(self.row) is not None

    @property
    def uniform_row(self) -> str:
        """The row of the evenly spread frames that it is compared with: in a sweep, as many."""
        seed, colon, _ = self.row.rpartition(": ")  # of a run of several seeds
        swept = SWEPT.fullmatch(self.row)
        return f"uniform, k = {swept[2]}" if swept else f"{seed}{colon}uniform"


@dataclass(frozen=True)
class ReportedRun:
    """A run as a report shows it; `pins` are its steps, each once, in their order; `started` is "" where that is not known."""

    title: str
    recipe: str
    started: str
    store: Store
    pins: Sequence[Pin]
    settings: Sequence[EvaluatedSetting]

    @property
    def headline(self) -> EvaluatedSetting:
        """The setting that the run comes to at last."""
        return self.settings[-1]

    @property
    def baseline(self) -> EvaluatedSetting | None:
        """The uniform frames, answered as the headline's are; None where that is the headline, or was not evaluated."""
        last = self.headline
        same = [each for each in self.settings if (each.row, each.column) == (last.uniform_row, last.column)]
        return same[0] if same and same[0] != last else None

    def artifacts(self, stage: str) -> list[tuple[str, Artifact]]:
        """Return the run's artifacts of one stage that the store holds, each once, and which of its steps they are."""
        kind, ids = STAGES[stage].output, dict[str, str]()
        for pin in self.pins:
            if pin.stage == stage and self.store.exists(pin.id):
                ids.setdefault(pin.id, pin.setting)
        return [(setting, kind(self.store, id)) for id, setting in ids.items()]

    def records(self) -> list[Record]:
        """Return the records of all its artifacts, each once."""
        return [self.store.record(id) for id in dict.fromkeys(pin.id for pin in self.pins) if self.store.exists(id)]


def title_of(recipe: str, seeds: Sequence[int]) -> str:
    """Return what a run without a name is called."""
    return f"{recipe}, seed{'s' if len(seeds) > 1 else ''} {' '.join(map(str, seeds))}" if seeds else recipe


def run_of_steps(
    title: str, recipe: str, started: str, store: Store, steps: Sequence[Artifact], settings: Sequence[str]
) -> ReportedRun:
    """Return a run that has just ended; `settings` say which of the chain's steps each of `steps` is."""
    pins = [Pin(str(step.id), step.record.stage, setting) for step, setting in zip(steps, settings, strict=True)]
    return _run(title, recipe, started, store, pins)


def reported_run(store: Store, given: str) -> ReportedRun:
    """Return the run that somebody names: by its name, by its recipe (the last run of it), or by an artifact's id.

    Raises:
        StoreError: nothing is called so, or nothing of it was evaluated.
    """
    run = _run_named(store, given)
    warn_if_stale(store, run.headline.metrics)
    return run


def _run_named(store: Store, given: str) -> ReportedRun:
    if given in every_name(store):
        return _of_named(given, named_run(store, given), store)
    if last := _last_of_recipe(store, given.removesuffix(".toml").rpartition("/")[2]):
        return _of_named(title_of(last.recipe, last.seeds), last, store)
    try:
        id = find(store, given)
    except StoreError as error:
        raise StoreError(
            f"{given!r} is no run's name (`sevila runs`), no recipe that this store has run, and no artifact's id: {error}"
        ) from error
    return _of_artifact(store, store.record(id))


def _last_of_recipe(store: Store, recipe: str) -> NamedRun | None:
    runs = [run for run, _ in every_run(store) if run.recipe == recipe and run.status != "running"]
    evaluated = [run for run in runs if _evaluations(store, run.artifacts)]
    return max(evaluated, key=lambda run: run.started, default=None)


def _of_named(title: str, run: NamedRun, store: Store) -> ReportedRun:
    # What an earlier run under the name had comes last.
    steps = {(pin.stage, pin.setting): pin for pin in reversed(run.artifacts) if store.exists(pin.id)}
    kept = set(steps.values())
    pins = [pin for pin in run.artifacts if pin in kept]
    return _run(title, run.recipe, run.started, store, pins)


def _of_artifact(store: Store, record: Record) -> ReportedRun:
    """Return the chain that led to one evaluation, or to the newest evaluation of one artifact."""
    if record.stage not in EVALUATIONS:
        uses = [
            each for stage in EVALUATIONS for each in store.of_stage(stage) if record.id in ancestry(store, each.id)
        ]
        if not uses:
            raise StoreError(f"{record.id}: no evaluation was made from it; `sevila run` with its recipe makes one")
        return _of_artifact(store, max(uses, key=lambda use: use.finished))
    chain = [origin.record for origin in ancestry(store, record.id).values() if origin.record is not None]
    of_keyframes = [
        each
        for each in store.of_stage("evaluate_localization")
        if each.inputs["keyframes"] in {link.id for link in chain}
    ]
    pins = [Pin(each.id, each.stage, "") for each in [*reversed(chain), *of_keyframes[:1]]]
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
        raise StoreError(f"{title}: nothing of it was evaluated, so that there is nothing to report")
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
    # A cell of a sweep may share the answers of one that chose the same frames.
    keyframes = store.record(chosen[pin.setting] if swept else str(answers.inputs["keyframes"]))
    frames, scores = str(keyframes.inputs["frames"]), keyframes.inputs["scores"]
    chosen_by = swept[1] if swept else _chosen_by(store, keyframes.config, scores)
    named = swept[3] if swept and "=" in (swept[3] or "") else None  # one of several models, or with keys of its own
    row, column = _named_cell(pin.setting) or (chosen_by, named or _answered(answers))
    localization = localizations.get(keyframes.id)
    return EvaluatedSetting(
        row, column, pin.id, questions, frames, keyframes.id, scores, answers.id, localization=localization
    )


def _named_cell(setting: str) -> tuple[str, str] | None:
    """Return row and column of a full chain's setting, which says both; None of another's."""
    known = [column for column in ANSWERED_COLUMNS if setting.endswith(f", {column}")]
    return (setting.removesuffix(f", {known[0]}"), known[0]) if known else None


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
    if answers.stage != "answer_questions":  # by another model
        return str(answers.config.get("served") or answers.config.get("weights") or answers.stage.replace("_", " "))
    if str(answers.inputs["answerer"]).startswith("finetune_answerer"):
        return "fine-tuned"
    return "zero-shot, voting" if answers.config.get("method") == "vote" else "zero-shot"


def stored_as(store: Store, id: str, kind: type[Kind]) -> Kind:
    """Return an artifact by its id, as its own stage reads it: several stages make scores, or answers."""
    artifact = STAGES[store.record(id).stage].output(store, id)
    assert isinstance(artifact, kind)
    return artifact
