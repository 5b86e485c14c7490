"""Check whether a recipe can run on this machine, and estimate its time, disk and GPU memory from measured rates."""

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
ASSUMED_VIDEO_SECONDS = 600.0  # for sampling at a fixed rate, while the lengths of videos are unknown
QUERIES, QUERY_WIDTH = 32, 768  # output of a BLIP-2 Q-Former for one frame


class Amounts(NamedTuple):
    """The size of an artifact's content, as far as it is known before the artifact is built."""

    questions: int = 0
    videos: int = 0
    frames: int = 0


@dataclass(frozen=True)
class StepEstimate:
    """A step to be built: its amount in `unit`, and its seconds on the measured GPU, None if it was not measured."""

    stage: str
    setting: str
    amount: int
    unit: str
    seconds: float | None
    disk_bytes: int = 0
    gpu_bytes: float = 0.0


@dataclass
class RecipeEstimate:
    """The estimate for a recipe; `card` is the GPU of the measured rates."""

    card: str
    steps: list[StepEstimate] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Seconds of all measured steps."""
        return sum(step.seconds or 0.0 for step in self.steps)

    @property
    def disk_bytes(self) -> int:
        """Bytes of frames and features, which take almost all the disk space of a run."""
        return sum(step.disk_bytes for step in self.steps)

    @property
    def gpu_bytes(self) -> float:
        """The largest GPU memory of a step."""
        return max((step.gpu_bytes for step in self.steps), default=0.0)


class Estimating(DryRun):
    """A dry run of a chain that adds up the amounts of its missing steps."""

    def __init__(self, recipe: Recipe, run: RunContext) -> None:
        super().__init__(recipe, run)
        self.estimate = RecipeEstimate(str(measured_rates()["card"]))
        self._recipe_config = recipe
        self._amounts: dict[int, tuple[Any, Amounts]] = {}  # by id() of the handle, which the tuple keeps alive

    def __call__(self, stage: Stage, /, *inputs: Any, setting: str = "", **changes: Any) -> Any:
        """Return a handle of the artifact, and record its amounts."""
        handle = super().__call__(stage, *inputs, setting=setting, **changes)
        amounts = self._amounts_of(stage, handle, inputs)
        self._amounts[id(handle)] = (handle, amounts)
        if self.steps[-1].status != "exists":
            self.estimate.steps.append(
                _step(self._recipe_config.config(stage, **changes), stage, inputs, amounts, setting)
            )
        return handle

    def _amounts_of(self, stage: Stage, handle: Artifact, inputs: tuple[Any, ...]) -> Amounts:
        if isinstance(handle, Questions) and handle.id is not None and handle.store.exists(handle.id):
            return Amounts(questions=handle.record.rows["questions"], videos=handle.record.rows["videos"])
        for value in inputs:
            if stage.name == "sample_frames" and isinstance(value, VideoFiles):
                return _frames(self._recipe_config.config_of(stage.name), value)
        of_inputs = [self._amounts[id(value)][1] for value in inputs if id(value) in self._amounts]
        return Amounts(*map(max, zip(*of_inputs, strict=True))) if of_inputs else Amounts()


def _frames(cfg: Any, files: VideoFiles) -> Amounts:
    videos = [video for video in files.videos if video.path is not None]
    rate = {"fixed_rate": cfg.frames_per_second, "every_second": 1.0}.get(cfg.sampling)
    frames_per_clip = cfg.frames if rate is None else round(rate * ASSUMED_VIDEO_SECONDS)
    if cfg.sampling == "fixed_rate":
        frames_per_clip = min(frames_per_clip, cfg.most_frames or frames_per_clip)
    return Amounts(0, len(videos), sum(frames_per_clip * len(video.clips) for video in videos))


def _step(cfg: Any, stage: Stage, inputs: tuple[Any, ...], amounts: Amounts, setting: str) -> StepEstimate:
    name = stage.name
    rates: Mapping[str, Any] = measured_rates()["stages"].get(name, {})
    if name == "sample_frames":
        return StepEstimate(name, setting, amounts.frames, "frames", None, amounts.frames * cfg.size**2 * 3)
    n_pairs = round(amounts.questions * (amounts.frames / max(amounts.videos, 1)))  # of a question and a frame
    counts = {"frames": amounts.frames, "questions": amounts.questions, "pairs": n_pairs}
    unit = rates.get("unit", "questions")
    amount = counts[unit] * getattr(cfg, "epochs", 1)
    seconds = amount / rates["per_second"] if rates else None
    disk = amounts.frames * _frame_bytes(cfg, stage, inputs) if name == "extract_features" else 0
    return StepEstimate(name, setting, amount, unit, seconds, disk, rates.get("gpu_gigabytes", 0.0) * 1e9)


def _frame_bytes(cfg: Any, stage: Stage, inputs: tuple[Any, ...]) -> int:
    """Return the stored bytes of a frame: the ViT's features, or the outputs of the Q-Formers among the inputs."""
    n_q_formers = sum(
        bool(value) for name, value in zip(stage.inputs, inputs, strict=True) if name in stage.later_inputs
    )
    tokens, width = measured_rates()["tensor_shape"]
    n_values = n_q_formers * QUERIES * QUERY_WIDTH if n_q_formers else tokens * width
    return int(n_values * (4 if cfg.stored_as == "float32" else 2))


def recipe_findings(recipe: Recipe, run: RunContext, sources: Sources) -> tuple[list[Finding], RecipeEstimate | None]:
    """Return the problems of running a recipe on this machine, and its estimate; None if its models were not measured.

    Args:
        sources: Sources that fall back on remembered digests, so that one missing file does not hide the next.
    """
    findings = [*_missing(recipe, sources)]
    dry_run = Estimating(recipe, run)
    steps = dry_run.walk(chain_of(recipe), sources)
    known = {finding.text for finding in findings}
    reasons = dict.fromkeys(
        step.why for step in steps if step.status == "blocked" and not step.why.startswith("waits for ")
    )
    findings += [Finding(OF_RECIPE, "problem", reason) for reason in reasons if reason not in known]
    counts = {status: sum(step.status == status for step in steps) for status in ("exists", "build", "blocked")}
    state = f"{counts['exists']} of {counted(len(steps), 'steps')} are in the store, {counts['build']} can be built"
    findings.append(Finding(OF_RECIPE, "ok", f"{recipe.name}: {state}, {counts['blocked']} are blocked"))
    findings += _precision_findings(recipe, run)
    if recipe.chain.backbone == "trained":
        return [*findings, NO_ESTIMATE], None
    findings += _capacity_findings(dry_run.estimate, run)
    return findings, dry_run.estimate


def findings_without_world(recipe: Recipe, run: RunContext, sources: Sources) -> list[Finding]:
    """Return the findings of a recipe that renders its own videos and questions, without rendering them."""
    rendered = Finding(
        OF_RECIPE, "ok", f"{recipe.name}: a run renders its own videos and questions first; no step is in the store"
    )
    no_estimate = [NO_ESTIMATE] if recipe.chain.backbone == "trained" else []
    return [*_missing(recipe, sources, brings_data=True), rendered, *_precision_findings(recipe, run), *no_estimate]


def _missing(recipe: Recipe, sources: Sources, brings_data: bool = False) -> Iterator[Finding]:
    """Yield a problem for everything that the recipe names and this machine lacks."""
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
        text = "extract_features in float16 on a CPU takes practically forever"
        yield Finding(OF_RECIPE, "problem", text, "--precision float32")
    for precision in sorted({getattr(cfg, "precision", "float32") for cfg in recipe.configs.values()}):
        if problem := why_not_on(precision, run.torch_device()):
            yield Finding(OF_RECIPE, "problem", problem, "--precision auto")


def _capacity_findings(estimate: RecipeEstimate, run: RunContext) -> Iterator[Finding]:
    root = run.store.root
    free = shutil.disk_usage(next(folder for folder in (root, *root.parents) if folder.is_dir())).free
    if estimate.disk_bytes:
        enough = free > estimate.disk_bytes
        text = f"{human_size(estimate.disk_bytes)} of frames and features to write, {human_size(free)} free"
        fix = "" if enough else "--store FOLDER on a larger disk, fewer sample_frames.frames, or `sevila cache gc`"
        yield Finding(OF_RECIPE, "ok" if enough else "problem", text, fix)
    if run.torch_device().startswith("cuda") and estimate.gpu_bytes:
        import torch

        total = torch.cuda.get_device_properties(run.torch_device()).total_memory
        enough = total > estimate.gpu_bytes
        text = f"{human_size(estimate.gpu_bytes)} of GPU memory for the largest step, {human_size(total)} available"
        fix = "" if enough else "--batch-tokens 4096, and a smaller micro_batch_size of trainings"
        yield Finding(OF_RECIPE, "ok" if enough else "problem", text, fix)


def estimate_text(estimate: RecipeEstimate) -> str:
    """Return the estimate as a table."""
    if not estimate.steps:
        return "everything is in the store"
    rows = [["step", "setting", "amount", f"on one {estimate.card}"]]
    for step in estimate.steps:
        time = "not measured" if step.seconds is None else duration(step.seconds)
        if step.amount and (step.seconds is not None or step.disk_bytes):
            rows.append([step.stage, step.setting, f"{step.amount:,} {step.unit}", time])
    if len(rows) == 1:
        return "no estimate: it needs the annotations and videos, for the numbers of questions and frames"
    total = f"total of the measured steps: {duration(estimate.seconds)} ({measured_rates()['setting']})"
    total += f"; {human_size(estimate.disk_bytes)} of disk" if estimate.disk_bytes else ""
    total += f"; {human_size(estimate.gpu_bytes)} of GPU memory at most" if estimate.gpu_bytes else ""
    return "\n".join([aligned(rows, n_left=2), "", total])
