"""What this machine lacks for the paper's tables: files with their sizes and sources, and GPU hours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from cache.fingerprint import fingerprint
from pipeline.datasets.registry import adapter_named
from pipeline.engine.deferred import OF_TRAINING, DeferredStep, id_of
from pipeline.engine.stage import Artifact
from pipeline.recipes.requirements import Split
from pipeline.text_table import aligned
from reports.paper import NeededWeights, Paper
from reports.reproduce import RowRun

ENCODING = "extract_features"
FEATURE_BYTES = 257 * 1408 * 2  # of a frame: ViT-g's output in float16


class Work(NamedTuple):
    """A step to be run and its hours on one GPU; steps with equal keys are the same artifact."""

    key: str
    stage: str
    split: Split
    clips: int
    frames: int
    hours: float


def needs_text(paper: Paper, runs_by_table: Mapping[str, Sequence[RowRun]]) -> str:
    """Return the missing files for these rows and the remaining work, on about a page; "" if there is neither."""
    runs = [run for runs in runs_by_table.values() for run in runs]
    missing = sorted({value.source for run in runs for value in run.missing if value.source})
    work = {name: _unique(item for run in runs for item in _work(paper, run)) for name, runs in runs_by_table.items()}
    all_work = _unique(item for items in work.values() for item in items)
    sources = [["missing", "size", "source, or file names"], *_sources(paper, missing, all_work)]
    hours = [["table", "hours on one H100"]]
    hours += [[name, _hours(items)] for name, items in work.items() if items]
    hours.append(["all together, with shared steps once", _hours(all_work)])
    parts = ["Not on this machine:\n\n" + aligned(sources, n_left=3)] if missing else []
    parts += ["Remaining work, by the rates in docs/performance.md:\n\n" + aligned(hours)] if all_work else []
    return "\n\n".join([*parts, HOW_TO_GIVE_PATHS] if missing else parts)


HOW_TO_GIVE_PATHS = (
    "Give paths with --annotations NAME=PATH, --videos NAME=FOLDER and --weights NAME=PATH, or permanently in sevila.toml; "
    "`sevila datasets` lists the files. Rows whose data are present can run already."
)


def _sources(paper: Paper, missing: Sequence[str], work: Sequence[Work]) -> list[list[str]]:
    """Return a table row (name, size, source) for each missing file set: annotations, videos, weights, others."""
    rows: list[list[str]] = []
    datasets = [source.split()[1] for source in missing if source.startswith(("annotations", "videos"))]
    for name in dict.fromkeys(datasets):
        about = adapter_named(name).about
        start = f"annotations {name} "
        if any(source.startswith(start) for source in missing):
            splits = [source.removeprefix(start) for source in missing if source.startswith(start)]
            listed = f"splits {', '.join(filter(None, splits))}" if any(splits) else ""
            rows.append([f"annotations {name}", listed, about.published])
        own_work = [item for item in work if item.split.dataset == name]
        n_clips = sum({item.split.split: item.clips for item in own_work}.values())
        n_frames = sum(item.clips * item.frames for item in own_work if item.stage == ENCODING)
        if n_frames or any(source.startswith(f"videos {name} ") for source in missing):
            amount = f"at most {n_clips:,} clips; {n_frames * FEATURE_BYTES / 1e9:,.0f} GB of features"
            amount = amount if n_frames else ""  # unknown: a data set of the user
            rows.append([f"videos {name}", amount, f"named {about.videos}"])
    for source in missing:
        if source.startswith("weights"):
            name = source.removeprefix("weights ")
            weights = paper.weights.get(name, NeededWeights(size_gigabytes=0, where="your own"))
            rows.append([source, f"{weights.size_gigabytes:g} GB", weights.where])
        elif source.split()[1] not in datasets:
            rows.append([source, "", paper.scores.get(source.split()[1], "your own")])
    return rows


def _hours(work: Sequence[Work]) -> str:
    return f"{sum(item.hours for item in work):,.1f}"


def _unique(work: Iterable[Work]) -> list[Work]:
    return list({item.key: item for item in work}.values())


def _work(paper: Paper, run: RowRun) -> list[Work]:
    """Return the remaining steps of a row that have a measured rate; none for a data set of the user, whose size is unknown."""
    if run.subject.is_own:
        return []
    steps = {id_of(step.artifact): step for step in run.steps}
    frames = {split.name: 0 for split in run.splits or () if split is not None}
    for step in run.steps:
        if step.stage.name == "sample_frames":
            frames[_split(run, step).name] = step.config.model_dump()["frames"]
    work = []
    for step in run.steps:
        artifact, split = step.artifact, _split(run, step)
        if step.stage.name not in paper.rates or (artifact.id and artifact.store.is_current(artifact.id)):
            continue
        n_questions = _n_questions(split)
        clips = paper.clips.get(split.dataset, {}).get(split.split, n_questions)
        amount = _amount(step, n_questions, clips, frames[split.name])
        key = fingerprint([split.dataset, split.split, _key(step, steps)])
        hours = amount / paper.rates[step.stage.name] / 3600
        work.append(Work(key, step.stage.name, split, clips, frames[split.name], hours))
    return work


def _amount(step: DeferredStep, n_questions: int, clips: int, frames: int) -> float:
    config = step.config.model_dump()
    if step.stage.name == "extract_features":
        return clips * frames
    if step.stage.name in ("score_frames", "label_frames"):
        return n_questions * frames
    return n_questions * int(config.get("epochs", 1))


def _split(run: RowRun, step: DeferredStep) -> Split:
    """Return the split that a step works on, from its stage and the name of its setting."""
    assert run.splits is not None
    if step.setting == "pre-training split" or step.stage.name == "pretrain_localizer":
        return run.splits.pretraining or run.splits.train
    training_stages = ("label_frames", "refine_localizer", "finetune_answerer", "train_selector")
    if step.setting.endswith(OF_TRAINING) or step.stage.name in training_stages:
        return run.splits.train
    return run.splits.test


def _n_questions(split: Split) -> int:
    files = adapter_named(split.dataset).about.splits.get(split.split, ())
    return max((file.n_questions or 0 for file in files), default=0)


def _key(step: DeferredStep, steps: Mapping[int, DeferredStep]) -> str:
    """Return a fingerprint of a step that needs no sources; steps with equal keys are the same artifact."""
    inputs = []
    for value in step.inputs:
        input_step = steps.get(id_of(value)) if isinstance(value, Artifact) else None
        inputs.append(_key(input_step, steps) if input_step else getattr(value, "source", ""))
    setting = step.setting if step.stage.name == "sample_frames" else ""
    return fingerprint([step.stage.name, step.config.model_dump(mode="json"), setting, inputs])
