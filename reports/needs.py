"""What the paper's tables need that is not on this machine: files, their sizes and where they are published, hours of a GPU."""

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
    """A step that is left: what makes it the same as another row's, and its hours on one GPU."""

    key: str
    stage: str
    split: Split
    clips: int
    frames: int
    hours: float


def needs_text(paper: Paper, runs_by_table: Mapping[str, Sequence[RowRun]]) -> str:
    """Return, on about a page, what is missing for these rows and what is left to run; "" where nothing is."""
    runs = [run for runs in runs_by_table.values() for run in runs]
    lacking = sorted({value.source for run in runs for value in run.missing if value.source})
    work = {name: _unique(each for run in runs for each in _work(paper, run)) for name, runs in runs_by_table.items()}
    of_all = _unique(each for works in work.values() for each in works)
    sources = [["what", "how much", "where its owners publish it"], *_sources(paper, lacking, of_all)]
    hours = [["table", "hours of one H100, by itself"]]
    hours += [[name, _hours(works)] for name, works in work.items() if works]
    hours.append(["together, as they share work", _hours(of_all)])
    parts = ["Not on this machine:\n\n" + aligned(sources, n_left=3)] if lacking else []
    parts += ["To run what is left, by the rates in docs/performance.md:\n\n" + aligned(hours)] if of_all else []
    return "\n\n".join([*parts, HOW_TO_SAY_WHERE] if lacking else parts)


HOW_TO_SAY_WHERE = (
    "Give paths with --annotations NAME=PATH, --videos NAME=FOLDER and --weights NAME=PATH, or once and for all in "
    "sevila.toml; `sevila datasets` names the files. Rows whose data are here run at once, the others when theirs are."
)


def _sources(paper: Paper, lacking: Iterable[str], work: Sequence[Work]) -> list[list[str]]:
    lines: dict[tuple[str, str], list[str]] = {}
    datasets = list(
        dict.fromkeys(source.split()[1] for source in lacking if source.startswith(("annotations", "videos")))
    )
    for name in datasets:
        about = adapter_named(name).about
        start = f"annotations {name} "
        if any(source.startswith(start) for source in lacking):
            splits = [source.removeprefix(start) for source in lacking if source.startswith(start)]
            listed = f"splits {', '.join(filter(None, splits))}" if any(splits) else ""
            lines["annotations", name] = [f"annotations {name}", listed, about.published]
        clips = {each.split.split: each.clips for each in work if each.split.dataset == name}
        frames = sum(each.clips * each.frames for each in work if each.split.dataset == name and each.stage == ENCODING)
        if frames or any(source.startswith(f"videos {name} ") for source in lacking):
            amount = f"at most {sum(clips.values()):,} clips; {frames * FEATURE_BYTES / 1e9:,.0f} GB of features"
            amount = amount if frames else ""  # not known yet: the data set is the user's own
            lines["videos", name] = [f"videos {name}", amount, f"named {about.videos}"]
    for source in lacking:
        if source.startswith("weights"):
            name = source.removeprefix("weights ")
            known = paper.weights.get(name, NeededWeights(size_gigabytes=0, where="your own"))
            lines["weights", name] = [f"weights {name}", f"{known.size_gigabytes:g} GB", known.where]
        elif source.split()[1] not in datasets:
            lines["others", source] = [source, "", paper.scores.get(source.split()[1], "your own")]
    return list(lines.values())


def _hours(work: Sequence[Work]) -> str:
    return f"{sum(each.hours for each in work):,.1f}"


def _unique(work: Iterable[Work]) -> list[Work]:
    return list({each.key: each for each in work}.values())


def _work(paper: Paper, run: RowRun) -> list[Work]:
    """Return what is left of a row that can be counted: steps on a data set whose owners say how large it is."""
    if run.subject.is_own:
        return []
    steps = {id_of(step.artifact): step for step in run.steps}
    frames = {split.name: 0 for split in run.splits or () if split is not None}
    for step in run.steps:
        if step.stage.name == "sample_frames":
            frames[_split(run, step).name] = step.config.model_dump()["frames"]
    left = []
    for step in run.steps:
        artifact, split = step.artifact, _split(run, step)
        if step.stage.name not in paper.rates or (artifact.id and artifact.store.is_current(artifact.id)):
            continue
        n_questions = _n_questions(split)
        clips = paper.clips.get(split.dataset, {}).get(split.split, n_questions)
        amount = _amount(step, n_questions, clips, frames[split.name])
        key = fingerprint([split.dataset, split.split, _key(step, steps)])
        hours = amount / paper.rates[step.stage.name] / 3600
        left.append(Work(key, step.stage.name, split, clips, frames[split.name], hours))
    return left


def _amount(step: DeferredStep, n_questions: int, clips: int, frames: int) -> float:
    config = step.config.model_dump()
    if step.stage.name == "extract_features":
        return clips * frames
    if step.stage.name in ("score_frames", "label_frames"):
        return n_questions * frames
    return n_questions * int(config.get("epochs", 1))


def _split(run: RowRun, step: DeferredStep) -> Split:
    """Return the split that a step works on: the chain's own names of steps say it."""
    assert run.splits is not None
    if step.setting == "pre-training split" or step.stage.name == "pretrain_localizer":
        return run.splits.pretraining or run.splits.train
    of_training = ("label_frames", "refine_localizer", "finetune_answerer", "train_selector")
    if step.setting.endswith(OF_TRAINING) or step.stage.name in of_training:
        return run.splits.train
    return run.splits.test


def _n_questions(split: Split) -> int:
    files = adapter_named(split.dataset).about.splits.get(split.split, ())
    return max((file.n_questions or 0 for file in files), default=0)


def _key(step: DeferredStep, steps: Mapping[int, DeferredStep]) -> str:
    """Return what a step is, as far as it can be known without its sources: equal keys are one artifact."""
    inputs = []
    for value in step.inputs:
        behind = steps.get(id_of(value)) if isinstance(value, Artifact) else None
        inputs.append(_key(behind, steps) if behind else getattr(value, "source", "") if value is not None else "")
    where = step.setting if step.stage.name == "sample_frames" else ""
    return fingerprint([step.stage.name, step.config.model_dump(mode="json"), where, inputs])
