"""Whether a recipe can run here, and what that would take: time, disk and GPU memory by measured rates."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cache.errors import MissingSourceError
from cache.printable import counted
from pipeline.engine.dry_run import DryRun
from pipeline.engine.places import ServerPlace
from pipeline.engine.recipe import Recipe
from pipeline.engine.sources import Sources, VideoFiles
from pipeline.engine.stage import Artifact, RunContext, Stage
from pipeline.precision import why_not_on
from pipeline.recipes.requirements import needed_weights, scorer_of, served_by
from pipeline.text_table import aligned, duration, human_size
from reports.findings import Finding
from reports.rates import measured_rates
from stages.chain import chain_of
from stages.list_questions import Questions

OF_RECIPE = "recipe"
NO_ESTIMATE = Finding(
    OF_RECIPE, "note", "no estimate of time and disk: the chain trains its backbone, which was not measured"
)
ASSUMED_SECONDS = 600.0  # of a video, where so many frames a second are sampled and its length is not known yet
QUERIES, QUERY_WIDTH = 32, 768  # what a Q-Former of BLIP-2 makes of a frame


class Amounts(NamedTuple):
    """What an artifact is of, as far as it is known before it is made."""

    questions: int = 0
    videos: int = 0
    frames: int = 0


@dataclass(frozen=True)
class StepEstimate:
    """One step that is to be made: how much of what, and how long that took on the card that was measured; None: not measured."""

    stage: str
    setting: str
    amount: int
    unit: str
    seconds: float | None
    disk_bytes: int = 0
    gpu_bytes: float = 0.0


@dataclass
class RecipeEstimate:
    """What a recipe would take; `card` is whose rates they are."""

    card: str
    steps: list[StepEstimate] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Of all steps that are measured."""
        return sum(step.seconds or 0.0 for step in self.steps)

    @property
    def disk_bytes(self) -> int:
        """Of frames and features, which are nearly all of it."""
        return sum(step.disk_bytes for step in self.steps)

    @property
    def gpu_bytes(self) -> float:
        """The most that a step takes."""
        return max((step.gpu_bytes for step in self.steps), default=0.0)


class Estimating(DryRun):
    """Walks a chain as a plan does, and adds up what it would make."""

    def __init__(self, recipe: Recipe, run: RunContext) -> None:
        super().__init__(recipe, run)
        self.estimate = RecipeEstimate(str(measured_rates()["card"]))
        self._cfg = recipe
        self._amounts: dict[int, tuple[Any, Amounts]] = {}  # by the handle, which is kept alive

    def __call__(self, stage: Stage, /, *inputs: Any, setting: str = "", **changes: Any) -> Any:
        """Return a handle as a plan does, and note how much it is of."""
        handle = super().__call__(stage, *inputs, setting=setting, **changes)
        amounts = self._of(stage, handle, inputs)
        self._amounts[id(handle)] = (handle, amounts)
        if self.steps[-1].status != "exists":
            self.estimate.steps.append(_step(self._cfg.config(stage, **changes), stage, inputs, amounts, setting))
        return handle

    def _of(self, stage: Stage, handle: Artifact, inputs: tuple[Any, ...]) -> Amounts:
        if isinstance(handle, Questions) and handle.id is not None and handle.store.exists(handle.id):
            return Amounts(questions=handle.record.rows["questions"], videos=handle.record.rows["videos"])
        for value in inputs:
            if stage.name == "sample_frames" and isinstance(value, VideoFiles):
                return _frames(self._cfg.config_of(stage.name), value)
        known = [self._amounts[id(value)][1] for value in inputs if id(value) in self._amounts]
        return Amounts(*(max((getattr(each, name) for each in known), default=0) for name in Amounts._fields))


def _frames(cfg: Any, files: VideoFiles) -> Amounts:
    there = [video for video in files.videos if video.path is not None]
    a_second = {"fixed_rate": cfg.frames_per_second, "every_second": 1.0}.get(cfg.sampling)
    a_clip = cfg.frames if a_second is None else round(a_second * ASSUMED_SECONDS)
    if cfg.sampling == "fixed_rate":
        a_clip = min(a_clip, cfg.most_frames or a_clip)
    return Amounts(0, len(there), sum(a_clip * len(video.clips) for video in there))


def _step(cfg: Any, stage: Stage, inputs: tuple[Any, ...], amounts: Amounts, setting: str) -> StepEstimate:
    name = stage.name
    rates: Mapping[str, Any] = measured_rates()["stages"].get(name, {})
    if name == "sample_frames":
        return StepEstimate(name, setting, amounts.frames, "frames", None, amounts.frames * cfg.size**2 * 3)
    a_question = amounts.frames / max(amounts.videos, 1)
    counts = {"frames": amounts.frames, "questions": amounts.questions, "pairs": round(amounts.questions * a_question)}
    unit = rates.get("unit", "questions")
    amount = counts[unit] * getattr(cfg, "epochs", 1)
    seconds = amount / rates["per_second"] if rates else None
    disk = amounts.frames * _frame_bytes(cfg, stage, inputs) if name == "extract_features" else 0
    return StepEstimate(name, setting, amount, unit, seconds, disk, rates.get("gpu_gigabytes", 0.0) * 1e9)


def _frame_bytes(cfg: Any, stage: Stage, inputs: tuple[Any, ...]) -> int:
    """Return the size of what is kept of a frame: the ViT's features, or the outputs of those Q-Formers that are inputs."""
    q_formers = [each for name, each in zip(stage.inputs, inputs, strict=True) if name in stage.later_inputs and each]
    tokens, width = measured_rates()["tensor_shape"]
    numbers = len(q_formers) * QUERIES * QUERY_WIDTH if q_formers else tokens * width
    return int(numbers * (4 if cfg.stored_as == "float32" else 2))


def recipe_findings(recipe: Recipe, run: RunContext, sources: Sources) -> tuple[list[Finding], RecipeEstimate | None]:
    """Return what stands in a recipe's way here, and what it would take; None where its models were not measured.

    Args:
        sources: those that the store's memory stands in for, so that one missing thing does not hide the next.
    """
    findings = [*_missing(recipe, sources)]
    walked = Estimating(recipe, run)
    steps = walked.walk(chain_of(recipe), sources)
    why = dict.fromkeys(
        step.why for step in steps if step.status == "blocked" and not step.why.startswith("waits for ")
    )
    findings += [Finding(OF_RECIPE, "problem", each) for each in why if each not in {known.text for known in findings}]
    counts = {status: sum(step.status == status for step in steps) for status in ("exists", "build", "blocked")}
    there = f"{counts['exists']} of {counted(len(steps), 'steps')} are in the store, {counts['build']} can be made"
    findings.append(Finding(OF_RECIPE, "ok", f"{recipe.name}: {there}, {counts['blocked']} cannot yet"))
    findings += _precision_findings(recipe, run)
    if recipe.chain.backbone == "trained":
        return [*findings, NO_ESTIMATE], None
    findings += _room(walked.estimate, run)
    return findings, walked.estimate


def findings_without_world(recipe: Recipe, run: RunContext, sources: Sources) -> list[Finding]:
    """Return the same of a recipe that brings its own videos and questions, which are rendered by its run and not for this."""
    rendered = Finding(
        OF_RECIPE, "ok", f"{recipe.name}: a run renders its own videos and questions first; no step is in the store"
    )
    no_estimate = [NO_ESTIMATE] if recipe.chain.backbone == "trained" else []
    return [*_missing(recipe, sources, brings_data=True), rendered, *_precision_findings(recipe, run), *no_estimate]


def _missing(recipe: Recipe, sources: Sources, brings_data: bool = False) -> Iterator[Finding]:
    """Everything that the recipe names and that is not here; what has no path comes first."""
    datasets = {recipe.config_of("list_questions").dataset, recipe.chain.pretraining_dataset} - {""}
    names = [] if brings_data else [(kind, name) for name in sorted(datasets) for kind in ("annotations", "videos")]
    names += [("scores", recipe.config_of("import_scores").scores)] * (scorer_of(recipe) == "imported")
    names += [("weights", name) for name in needed_weights(recipe)]
    for kind, name in dict.fromkeys(names):
        try:
            if name:
                _ = sources.weights_place(name) if kind == "weights" else sources.places.place(kind, name)
        except MissingSourceError as error:
            yield Finding(OF_RECIPE, "problem", str(error))
    if served := served_by(recipe):
        try:
            ServerPlace.of_environment(served)
        except MissingSourceError as error:
            yield Finding(OF_RECIPE, "problem", str(error))


def _precision_findings(recipe: Recipe, run: RunContext) -> Iterator[Finding]:
    low = [name for name, cfg in recipe.configs.items() if getattr(cfg, "precision", "float32") == "float16"]
    if low and run.torch_device() == "cpu" and "extract_features" in low:
        text = "extract_features in float16 on a CPU: as good as never done"
        yield Finding(OF_RECIPE, "problem", text, "--precision float32")
    for precision in sorted({getattr(cfg, "precision", "float32") for cfg in recipe.configs.values()}):
        if problem := why_not_on(precision, run.torch_device()):
            yield Finding(OF_RECIPE, "problem", problem, "--precision auto")


def _room(estimate: RecipeEstimate, run: RunContext) -> Iterator[Finding]:
    root = run.store.root
    here = next(folder for folder in (root, *root.parents) if folder.is_dir())
    free = shutil.disk_usage(here).free
    if estimate.disk_bytes:
        enough = free > estimate.disk_bytes
        text = (
            f"{human_size(estimate.disk_bytes)} of frames and features are to be written, {human_size(free)} are free"
        )
        fix = "" if enough else "--store FOLDER on a larger disk, fewer sample_frames.frames, or `sevila cache gc`"
        yield Finding(OF_RECIPE, "ok" if enough else "problem", text, fix)
    if run.torch_device().startswith("cuda") and estimate.gpu_bytes:
        import torch

        total = torch.cuda.get_device_properties(run.torch_device()).total_memory
        enough = total > estimate.gpu_bytes
        text = f"{human_size(estimate.gpu_bytes)} of GPU memory was the most a step took, {human_size(total)} are here"
        fix = "" if enough else "--batch-tokens 4096, and a smaller micro_batch_size of trainings"
        yield Finding(OF_RECIPE, "ok" if enough else "problem", text, fix)


def estimate_text(estimate: RecipeEstimate) -> str:
    """Return the estimate for people."""
    if not estimate.steps:
        return "everything is in the store"
    rows = [["step", "which", "amount", f"on one {estimate.card}"]]
    for step in estimate.steps:
        took = "not measured" if step.seconds is None else duration(step.seconds)
        if step.amount and (step.seconds is not None or step.disk_bytes):
            rows.append([step.stage, step.setting, f"{step.amount:,} {step.unit}", took])
    if len(rows) == 1:
        return "no estimate: how many questions and frames there are is known once annotations and videos are here"
    total = f"together {duration(estimate.seconds)} for what was measured ({measured_rates()['setting']})"
    total += f"; {human_size(estimate.disk_bytes)} of disk" if estimate.disk_bytes else ""
    total += f"; {human_size(estimate.gpu_bytes)} of GPU memory at most" if estimate.gpu_bytes else ""
    return "\n".join([aligned(rows, n_left=2), "", total])
