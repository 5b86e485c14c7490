"""The facts of a run for its report: data, weights and steps, failures, costs, and savings by the cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from cache.printable import counted
from cache.record import Record
from pipeline.datasets.question import Rejected
from pipeline.inference.visual_prompt_weights import TrainingStep, ValidationFigure
from pipeline.metrics.accuracy import Answered
from pipeline.text_table import duration, human_size
from reports.artifacts import unusual
from reports.page.runs import ReportedRun, stored_as
from stages.answer_questions import Answers
from stages.list_questions import Questions
from stages.sample_frames import Frames
from stages.select_keyframes import Keyframes

EXAMPLES_SHOWN = 20
TRAININGS = {
    "pretrain_localizer": "Localizer pre-trained",
    "refine_localizer": "Localizer refined",
    "finetune_answerer": "Answerer fine-tuned",
    "train_selector": "Selector trained",
}
STAGES_OF_WEIGHTS = (
    "import_backbone",
    "train_backbone",
    "init_localizer",
    "init_answerer",
    "import_embedder",
    "import_matcher",
    *TRAININGS,
)
# Stages whose artifacts several steps share.
SHARED = ("sample_frames", "extract_features")


@dataclass(frozen=True)
class ReportedStep:
    """A step of the chain: its stage, setting, artifact and content, and the config keys that differ from defaults."""

    stage: str
    setting: str
    id: str
    holds: str
    config: str


@dataclass(frozen=True)
class FailureGroup:
    """Inputs of one kind (`what`) that failed for one reason: its code, their number, and the first of them with details."""

    inputs: str
    code: str
    count: int
    examples: Sequence[str] = field(default_factory=list)


@dataclass(frozen=True)
class StageCost:
    """The cost of a stage, from the records of its artifacts; `reused_seconds` of `seconds` were spent before the run."""

    stage: str
    n_artifacts: int
    seconds: float
    reused_seconds: float
    peak_memory: str
    devices: str


@dataclass(frozen=True)
class TrainingCourse:
    """The course of a training: its steps, and the (step, value) pairs of each figure on held-out videos."""

    name: str
    steps: Sequence[TrainingStep]
    figures: dict[str, list[tuple[int, float]]]


def what_ran(run: ReportedRun) -> list[tuple[str, str]]:
    """Return the recipe, data, weights, machine and code of a run, as (name, value) pairs."""
    records = run.records()
    questions = run.store.record(run.headline.questions)
    frames = run.store.record(run.headline.frames)
    split = f", split {questions.config['split']}" if questions.config["split"] else ""
    first = f", the first {questions.config['limit']} questions" if questions.config["limit"] else ""
    videos = counted(frames.rows.get("videos", 0), "videos") if frames.rows else ""
    facts = [
        ("Recipe", run.recipe),
        (
            "Data",
            f"{questions.config['dataset']}{split}{first}: {counted(questions.rows['questions'], 'questions')}, {videos}",
        ),
        ("Frames", _sampling(frames)),
        ("Keyframes", _keyframes(run)),
        ("Weights", "; ".join(_weights(run))),
        ("Devices", ", ".join(sorted({record.device for record in records if record.device}))),
        ("Libraries", ", ".join(sorted({f"{name} {v}" for record in records for name, v in record.libraries.items()}))),
        ("Code", ", ".join(sorted({record.git_revision[:12] for record in records if record.git_revision}))),
        ("Finished", max(record.finished for record in records)[:16].replace("T", " ") + " UTC"),
    ]
    return [(name, value) for name, value in facts if value]


def steps_of(run: ReportedRun) -> list[ReportedStep]:
    """Return the steps of the chain, in its order."""
    steps = []
    for pin in run.pins:
        if run.store.exists(pin.id):
            record = run.store.record(pin.id)
            holds = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in list(record.rows.items())[:1])
            config = ", ".join(f"{key} = {value}" for key, value in unusual(record).items())
            steps.append(ReportedStep(pin.stage, pin.setting, pin.id, holds, config))
    return steps


def failures_of(run: ReportedRun) -> list[FailureGroup]:
    """Return failed inputs by reason: annotation rows, videos, and questions of the headline's setting."""
    rejected = [
        (row.reason, f"{row.file} line {row.line}: {row.reason}")
        for _, questions in run.artifacts("list_questions")
        if isinstance(questions, Questions)
        for row in questions.typed_rows("rejected", Rejected)
    ]
    videos = {
        video.video_id: (video.reason.code, f"{video.video_id}: {video.reason.details or video.reason}")
        for _, frames in run.artifacts("sample_frames")
        if isinstance(frames, Frames)
        for video in frames.videos()
        if video.status != "ok"
    }
    groups = [*_groups("annotation rows", rejected), *_groups("videos", list(videos.values()))]
    if run.headline.answers is not None:
        rows = stored_as(run.store, run.headline.answers, Answers).typed_rows("answers", Answered)
        reasons = [(row.reason.code, f"{row.question_id}: {row.reason}") for row in rows if row.reason]
        groups += _groups("questions without an answer", reasons)
    return groups


def costs_of(run: ReportedRun) -> list[StageCost]:
    """Return the cost of each stage, in the order of the chain."""
    by_stage: dict[str, list[Record]] = {}
    for record in run.records():
        by_stage.setdefault(record.stage, []).append(record)
    return [
        StageCost(
            stage,
            len(records),
            sum(record.seconds for record in records),
            sum(record.seconds for record in records if run.started and record.finished < run.started),
            human_size(max(record.peak_memory_bytes for record in records)),
            ", ".join(sorted({record.device for record in records})),
        )
        for stage, records in by_stage.items()
    ]


def cache_savings(run: ReportedRun, costs: Sequence[StageCost]) -> list[str]:
    """Return sentences on the work that the cache saved: between runs, and between the steps of this run."""
    sentences = []
    reused_seconds = sum(cost.reused_seconds for cost in costs)
    if reused_seconds:
        n_before = sum(record.finished < run.started for record in run.records())
        sentences.append(
            f"{n_before} of {len(run.records())} artifacts existed before this run and were reused, which saved "
            f"{duration(reused_seconds)}."
        )
    uses = Counter(id for record in run.records() for id in set(record.inputs.values()) if id)
    shared = [record for record in run.records() if record.stage in SHARED and uses[record.id] > 1]
    if shared:
        saved_seconds = sum((uses[record.id] - 1) * record.seconds for record in shared)
        seconds = sum(record.seconds for record in shared)
        sentences.append(
            f"Frames and features were built once, in {duration(seconds)}, and used by "
            f"{sum(uses[record.id] for record in shared)} steps, which saved {duration(saved_seconds)}."
        )
    return sentences


def trainings_of(run: ReportedRun) -> list[TrainingCourse]:
    """Return the course of each training that has a curve."""
    courses = []
    for stage, title in TRAININGS.items():
        for setting, weights in run.artifacts(stage):
            steps = sorted(weights.typed_rows("curves", TrainingStep))
            figures: dict[str, list[tuple[int, float]]] = {}
            for row in sorted(weights.typed_rows("validation", ValidationFigure)):
                figures.setdefault(row.figure, []).append((row.step, row.value))
            name = title + (f", {setting}" if setting else "")
            courses += [TrainingCourse(name, steps, figures)] if steps else []
    return courses


def _groups(inputs: str, failed: Sequence[tuple[str, str]]) -> list[FailureGroup]:
    by_code: dict[str, list[str]] = {}
    for code, example in failed:
        by_code.setdefault(code, []).append(example)
    ordered = sorted(by_code.items(), key=lambda item: -len(item[1]))
    return [FailureGroup(inputs, code, len(examples), examples[:EXAMPLES_SHOWN]) for code, examples in ordered]


def _sampling(frames: Record) -> str:
    config = frames.config
    size, sampling = f"{config['size']} × {config['size']} pixels", config["sampling"]
    if sampling == "fixed_rate":
        return f"{config['frames_per_second']:g} per second, {size}"
    if sampling in ("uniform", "random"):
        return f"{config['frames']} per clip, {sampling}, {size}"
    return f"{sampling.replace('_', ' ')}, {size}"


def _keyframes(run: ReportedRun) -> str:
    if run.headline.keyframes is None:
        return ""
    keyframes = stored_as(run.store, run.headline.keyframes, Keyframes)
    config = keyframes.record.config
    ranking = f", ranked by {config['rank_by'].replace('_', ' ')}" if run.headline.scores else ""
    # Without those of failed videos, which have no keyframes.
    counts = [
        len(positions) for positions in keyframes.columns("keyframes", "positions")["positions"] if len(positions)
    ]
    if min(counts, default=config["k"]) == config["k"]:
        return f"{config['k']} per question{ranking}"
    return f"at most {config['k']} per question, {fmean(counts):.1f} on average{ranking}"


def _weights(run: ReportedRun) -> list[str]:
    lines = []
    for pin in run.pins:
        if pin.stage in STAGES_OF_WEIGHTS and run.store.exists(pin.id):
            name = run.store.record(pin.id).config.get("weights")
            if name:
                lines.append(f"{pin.stage.split('_', 1)[1]}: {name}")
            elif pin.stage == "train_backbone":
                lines.append("backbone: trained from scratch")
    return list(dict.fromkeys(lines))
