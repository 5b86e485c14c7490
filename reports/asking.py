"""One question about one video: which weights answer it, what to do where there are none, and the run that asks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from cache.errors import MissingSourceError, SevilaError, StoreError
from cache.matching import newest
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
from stages.asking import Asked, TrainedParts, ask
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
    """What is asked, and with what.

    Attributes:
        options: texts to choose from; none for an answer in words.
        weights: places as `PlaceLookup` takes them, or just `demo`.
        localizer: id of trained weights in the store, or its beginning; empty: as the recipe says. So is `answerer`.
        settings: `stage.key=value`.
        download: the model hub may be asked for weights that are not here.
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
    """There is nothing to answer with; `hints` says what is needed and where it is from, a line each."""

    def __init__(self, message: str, hints: Sequence[str]) -> None:
        super().__init__(message)
        self.hints = hints


class AskedRun(NamedTuple):
    """What came of a question about a video, and whose weights answered it, in words."""

    video: Path
    asked: Asked
    recipe: Recipe
    answered_by: str


def ask_video(request: AskRequest, run: RunContext) -> AskedRun:
    """Ask, making what the store does not hold.

    Raises:
        NoWeightsError: no weights are at hand.
        SevilaError: the video is not there, or the question cannot be asked.
    """
    video = request.video.expanduser().absolute()
    if not video.exists():
        raise MissingSourceError(f"{request.video}: there is no such video; wanted a file, or a folder of images")
    if video.is_dir() and not any(name.lower().endswith(IMAGE_SUFFIXES) for name in os.listdir(video)):
        raise MissingSourceError(
            f"{request.video}: is a folder without images; wanted a video, or a folder of numbered {', '.join(IMAGE_SUFFIXES)}"
        )
    if twice := [option for option in request.options if list(request.options).count(option) > 1]:
        raise SevilaError(f"this cannot be asked: the option {twice[0]!r} is given more than once")
    with TemporaryDirectory(prefix="sevila-ask-") as folder:
        file = Path(folder) / "questions.jsonl"
        dataset = write_question(file, video.name, request.question, request.options)
        places = {"annotations": [f"{dataset}={file}"], "videos": [f"{dataset}={video.parent}"]}
        settings = [f"list_questions.dataset={dataset}", *_settings(request, run), *request.settings]
        weights = () if _of_demo(request) else request.weights
        recipe = DEMO if _of_demo(request) else RECIPE
        to_open = Request(recipe, settings, places={**places, "weights": weights})
        loaded, run, sources = open_recipe(to_open, STAGES, replace(run, download=request.download))
        _refuse_without_weights(loaded, sources)
        trained = _trained(request, run.store, loaded)
        with run.store.in_use(), pinned(run.store, "", loaded, []) as pin:
            chain = partial(ask, trained=trained, has_options=bool(request.options))
            asked = chain(loaded, Run(loaded, run, pin, chain=chain), sources)
    return AskedRun(video, asked, loaded, _answered_by(loaded, trained))


def _of_demo(request: AskRequest) -> bool:
    return list(request.weights) == [DEMO] and not Path(DEMO).exists()


def _settings(request: AskRequest, run: RunContext) -> list[str]:
    """Return what differs from the recipe: whose questions, whose weights, and float32 where there is no GPU."""
    if _of_demo(request):
        config = _demo_backbone(run.store).config
        own = [f"train_backbone.{key}={value}" for key, value in config.items()]
        return ["list_questions.split=", "chain.kind=forward", "score_frames.prompt=" + _prompt(request), *own]
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
            ["`sevila demo` trains it there, in some minutes on a CPU, with nothing to download; then ask again"],
        ) from error


def _refuse_without_weights(recipe: Recipe, sources: Sources) -> None:
    """Raise `NoWeightsError` where weights that are needed are not here, before anything is decoded or downloaded."""
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
    known = RELEASED.get(name)
    lines = []
    if known is not None:
        lines = [f"needed: {known.title}", f"files:  {known.files} ({known.size})", f"from:   {known.page}"]
    if "/" in name:
        lines.append("fetch:  the same command with --download fetches it from the Hugging Face Hub")
    return [
        *lines,
        f"here:   --weights {name}=PATH, or a line in sevila.toml (`sevila weights import`)",
        "no download: --weights demo answers by the tiny backbone of `sevila demo`, which only knows coloured shapes",
    ]


def _trained(request: AskRequest, store: Store, recipe: Recipe) -> TrainedParts:
    """Return the weights of the store that were asked for; of the demo's the newest, as its own Q-Former has learned little."""
    localizer, answerer = request.localizer, request.answerer
    if _of_demo(request):
        of_demo = _demo_backbone(store).id
        localizer = localizer or _newest_of(store, refine_localizer.name, of_demo)
        answerer = answerer or _newest_of(store, finetune_answerer.name, of_demo)
    return TrainedParts(
        LocalizerWeights(store, _id_of(store, localizer, LocalizerWeights.kind)) if localizer else None,
        AnswererWeights(store, _id_of(store, answerer, AnswererWeights.kind)) if answerer else None,
    )


def _newest_of(store: Store, stage: str, backbone: str) -> str:
    return next((record.id for record in store.of_stage(stage) if record.inputs.get("backbone") == backbone), "")


def _id_of(store: Store, prefix: str, kind: str) -> str:
    record = newest(store, prefix)[0]
    if record.kind != kind:
        raise StoreError(f"{record.id} holds {record.kind}, wanted {kind}; `sevila weights ls` lists what there is")
    return record.id


def _answered_by(recipe: Recipe, trained: TrainedParts) -> str:
    """Return whose weights answered, in words."""
    backbone = "the demo's tiny backbone"
    if recipe.chain.backbone != "trained":
        backbone = str(recipe.config_of("import_backbone").weights)
    parts = [
        f"{part}: {weights.record.stage}" if weights else f"{part}: {recipe.config_of(f'init_{part}').weights}"
        for part, weights in trained._asdict().items()
        if weights or recipe.config_of(f"init_{part}").weights
    ]
    return f"{backbone} ({', '.join(parts)})" if parts else backbone
