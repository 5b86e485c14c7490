"""One question about one video: choose the weights that answer it, say how to get missing ones, and run the chain."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from cache.errors import MissingSourceError, SevilaError, StoreError
from cache.id_prefixes import newest
from cache.record import Record
from cache.store import Store
from pipeline.datasets.one_question import write_question
from pipeline.engine.recipe import Recipe
from pipeline.engine.sources import Sources
from pipeline.engine.stage import RunContext
from pipeline.engine.steps import Run
from pipeline.models.released import RELEASED
from pipeline.recipes.opening import Request, open_recipe
from pipeline.shapes.demo import DEMO
from pipeline.video.frames import IMAGE_SUFFIXES
from reports.named_runs import pinned
from stages.all import STAGES
from stages.ask_chain import AskArtifacts, TrainedParts, ask
from stages.finetune_answerer import finetune_answerer
from stages.init_answerer import AnswererWeights
from stages.init_localizer import LocalizerWeights
from stages.refine_localizer import refine_localizer
from stages.train_backbone import train_backbone

RECIPE = "plain"
WITH_PRECISION = ("extract_features", "score_frames", "answer_questions", "generate_answers")
RELEASED_SEVILA = "sevila-pretrained"


@dataclass(frozen=True)
class AskRequest:
    """A question about a video, and the weights to answer it with.

    Attributes:
        options: Texts to choose from; empty for a free-text answer.
        weights: Places as `PlaceLookup` takes them, or just `demo`.
        localizer: Id of trained weights in the store, or its beginning; empty for those of the recipe. Likewise `answerer`.
        settings: `stage.key=value`.
        download: Whether missing weights may be downloaded from the model hub.
    """

    video: Path
    question: str
    options: Sequence[str] = ()
    weights: Sequence[str] = ()
    localizer: str = ""
    answerer: str = ""
    settings: Sequence[str] = ()
    download: bool = False


class NoWeightsError(SevilaError):
    """No weights to answer with; `hints` are lines that name the needed files and their source."""

    def __init__(self, message: str, hints: Sequence[str]) -> None:
        super().__init__(message)
        self.hints = hints


class AskRun(NamedTuple):
    """A question about a video that was run: its artifacts, its recipe, and the name of the weights that answered."""

    video: Path
    artifacts: AskArtifacts
    recipe: Recipe
    answered_by: str


def ask_video(request: AskRequest, run: RunContext) -> AskRun:
    """Answer a question, building the artifacts that the store lacks.

    Raises:
        NoWeightsError: There are no weights to answer with.
        SevilaError: The video does not exist, or the question cannot be asked.
    """
    video = request.video.expanduser().absolute()
    if not video.exists():
        raise MissingSourceError(f"{request.video}: there is no such video; expected a file, or a folder of images")
    if video.is_dir() and not any(name.lower().endswith(IMAGE_SUFFIXES) for name in os.listdir(video)):
        raise MissingSourceError(
            f"{request.video}: is a folder without images; expected a video, or a folder of numbered {', '.join(IMAGE_SUFFIXES)}"
        )
    if repeated := [option for option in request.options if list(request.options).count(option) > 1]:
        raise SevilaError(f"this cannot be asked: the option {repeated[0]!r} is given more than once")
    with TemporaryDirectory(prefix="sevila-ask-") as folder:
        file = Path(folder) / "questions.jsonl"
        dataset = write_question(file, video.name, request.question, request.options)
        places = {"annotations": [f"{dataset}={file}"], "videos": [f"{dataset}={video.parent}"]}
        settings = [f"list_questions.dataset={dataset}", *_settings(request, run), *request.settings]
        weights = () if _uses_demo(request) else request.weights
        recipe = DEMO if _uses_demo(request) else RECIPE
        to_open = Request(recipe, settings, places={**places, "weights": weights})
        loaded, run, sources = open_recipe(to_open, STAGES, replace(run, download=request.download))
        _refuse_without_weights(loaded, sources)
        trained = _trained(request, run.store, loaded)
        with run.store.in_use(), pinned(run.store, "", loaded, []) as pin:
            chain = partial(ask, trained=trained, has_options=bool(request.options))
            artifacts = chain(loaded, Run(loaded, run, pin, chain=chain), sources)
    return AskRun(video, artifacts, loaded, _answered_by(loaded, trained))


def _uses_demo(request: AskRequest) -> bool:
    return list(request.weights) == [DEMO] and not Path(DEMO).exists()


def _settings(request: AskRequest, run: RunContext) -> list[str]:
    """Return the changes to the recipe: prompt, weights, and float32 without a GPU."""
    if _uses_demo(request):
        config = _demo_backbone(run.store).config
        backbone = [f"train_backbone.{key}={value}" for key, value in config.items()]
        return ["list_questions.split=", "chain.kind=forward", "score_frames.prompt=" + _prompt(request), *backbone]
    settings = [f"score_frames.prompt={_prompt(request)}"]
    if run.torch_device() == "cpu":
        settings += [f"{stage}.precision=float32" for stage in WITH_PRECISION]
    sources = Sources(run.store.digests, {"weights": request.weights})
    if RELEASED_SEVILA in sources.places.named("weights"):
        settings += [f"{stage}.weights={RELEASED_SEVILA}" for stage in ("init_localizer", "init_answerer")]
    return settings


def _prompt(request: AskRequest) -> str:
    return "multiple_choice" if request.options else "open"


def _demo_backbone(store: Store) -> Record:
    try:
        return newest(store, train_backbone.name)[0]
    except StoreError as error:
        raise NoWeightsError(
            f"the demo's backbone is not in {store.root}",
            ["`sevila demo` trains it in a few minutes on a CPU, without any download; then ask again"],
        ) from error


def _refuse_without_weights(recipe: Recipe, sources: Sources) -> None:
    """Raise `NoWeightsError` if needed weights are missing, before anything is decoded or downloaded."""
    names = [] if recipe.chain.backbone == "trained" else [recipe.config_of("import_backbone").weights]
    names += [recipe.config_of(stage).weights for stage in ("init_localizer", "init_answerer")]
    for name in filter(None, dict.fromkeys(names)):
        try:
            sources.weights_place(name)
        except MissingSourceError as error:
            if sources.places.configured("weights", name) is not None:
                raise
            raise NoWeightsError(str(error), _hints(name)) from error


def _hints(name: str) -> list[str]:
    released = RELEASED.get(name)
    lines = []
    if released is not None:
        lines = [f"needed: {released.title}", f"files:  {released.files} ({released.size})", f"from:   {released.page}"]
    if "/" in name:
        lines.append("fetch:  the same command with --download fetches it from the Hugging Face Hub")
    return [
        *lines,
        f"here:   --weights {name}=PATH, or a line in sevila.toml (`sevila weights import`)",
        "no download: --weights demo answers with the tiny backbone of `sevila demo`, which only knows coloured shapes",
    ]


def _trained(request: AskRequest, store: Store, recipe: Recipe) -> TrainedParts:
    """Return the requested weights of the store; for the demo the newest ones, as its initial Q-Former has learned little."""
    localizer, answerer = request.localizer, request.answerer
    if _uses_demo(request):
        backbone = _demo_backbone(store).id
        localizer = localizer or _newest_id(store, refine_localizer.name, backbone)
        answerer = answerer or _newest_id(store, finetune_answerer.name, backbone)
    return TrainedParts(
        LocalizerWeights(store, _weights_id(store, localizer, LocalizerWeights.kind)) if localizer else None,
        AnswererWeights(store, _weights_id(store, answerer, AnswererWeights.kind)) if answerer else None,
    )


def _newest_id(store: Store, stage: str, backbone: str) -> str:
    return next((record.id for record in store.of_stage(stage) if record.inputs.get("backbone") == backbone), "")


def _weights_id(store: Store, prefix: str, kind: str) -> str:
    record = newest(store, prefix)[0]
    if record.kind != kind:
        raise StoreError(f"{record.id} holds {record.kind}; expected {kind} (`sevila weights ls` lists all weights)")
    return record.id


def _answered_by(recipe: Recipe, trained: TrainedParts) -> str:
    """Return the names of the weights that answered."""
    backbone = "the demo's tiny backbone"
    if recipe.chain.backbone != "trained":
        backbone = str(recipe.config_of("import_backbone").weights)
    parts = [
        f"{part}: {weights.record.stage}" if weights else f"{part}: {recipe.config_of(f'init_{part}').weights}"
        for part, weights in trained._asdict().items()
        if weights or recipe.config_of(f"init_{part}").weights
    ]
    return f"{backbone} ({', '.join(parts)})" if parts else backbone
