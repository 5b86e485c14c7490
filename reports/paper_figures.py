"""Numbers of the paper's tables from artifacts: accuracies, moments, and the cost of a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from statistics import mean
from typing import NamedTuple, TypeVar

from cache.errors import SevilaError
from cache.record import Record
from pipeline.engine.deferred import OF_TRAINING, DeferredStep
from pipeline.engine.joined import typed_rows_of_all
from pipeline.inference.backbone import Backbone
from pipeline.metrics.accuracy import AccuracyRow, Answered, accuracy_table
from pipeline.recipes.results import keyframe_row
from reports.estimates import Estimate
from reports.reproduce import RowRun
from stages.evaluate import Metrics, outcomes, reporting
from stages.evaluate_moments import MomentMetrics, MomentMetricsRow
from stages.list_questions import Questions

SideBySide = TypeVar("SideBySide", bound=tuple[RowRun, ...])
# The stages that a first run executes for each sample; later runs execute only `AGAIN`.
PER_SAMPLE = ("sample_frames", "extract_features", "score_frames", "select_keyframes", "answer_questions")
AGAIN = PER_SAMPLE[2:]


class FrameAnswer(NamedTuple):
    """The Answerer's answer to a single frame; a row of the table `frame_answers`."""

    question_id: str
    prediction: int | None


def figure(name: str, run: RowRun) -> Estimate | None:
    """Return a figure of a row's run, by a column's `figure` in `paper.toml`; None if the run does not have it."""
    if not run.is_measured:
        return None
    if name in COSTS:
        with suppress(SevilaError):  # parameters are counted in the weights, which may have been removed
            return Estimate(COSTS[name](run))
        return None
    if isinstance(run.metrics, MomentMetrics):
        return _moment_figure(name, run.metrics)
    if name == "moment recall":
        recall = keyframe_row(run.localization).moment_recall_percent if run.localization is not None else None
        return None if recall is None else Estimate(recall)
    assert isinstance(run.metrics, Metrics)
    rows = _any_frame(run) if name == "any frame" else run.metrics.accuracies()
    named = [row for row in rows if (row.is_headline if name in ("accuracy", "any frame") else row.name == name)]
    return _estimate(named[0]) if named else None


def distinct(measured: Iterable[SideBySide]) -> list[SideBySide]:
    """Return the tuples of runs with distinct metrics: a seed that changes nothing is not another sample."""
    by_ids = {tuple(run.metrics.record.id for run in runs if run.metrics): runs for runs in measured}
    return list(by_ids.values())


def _estimate(row: AccuracyRow) -> Estimate | None:
    return None if row.accuracy_percent is None else Estimate(row.accuracy_percent, *(row.interval() or ()))


def _moment_figure(name: str, metrics: MomentMetrics) -> Estimate | None:
    rows = [row for row in metrics.typed_rows("moment_metrics", MomentMetricsRow) if row.window_length == "full"]
    if name == "mAP":  # over all IoU thresholds
        values = [row.mean_average_precision_percent for row in rows]
    else:
        threshold = float(name.removeprefix("R1@"))
        values = [row.recall_at_one_percent for row in rows if abs(row.iou_threshold - threshold) < 1e-6]
    numbers = [value for value in values if value is not None]
    return Estimate(mean(numbers)) if numbers else None


def _any_frame(run: RowRun) -> list[AccuracyRow]:
    """Return the accuracies of an oracle: a question counts as right if any single frame voted for the right option."""
    answers = run.answers
    assert answers is not None
    questions = Questions(answers.store, answers.record.inputs["questions"])
    by_id = questions.by_id()
    voted: dict[str, set[int | None]] = {}
    for row in answers.typed_rows("frame_answers", FrameAnswer):
        voted.setdefault(row.question_id, set()).add(row.prediction)
    answered = typed_rows_of_all(answers, "answers", questions, Answered)
    judged = [
        replace(outcome, prediction=outcome.answer_index)
        if outcome.answer_index in voted.get(answer.question_id, ()) and outcome.answer_index is not None
        else outcome
        for answer, outcome in zip(answered, outcomes(by_id, answered), strict=True)
    ]
    return accuracy_table(judged, reporting(questions))


def cost_records(run: RowRun) -> list[Record]:
    """Return the records of the steps that run for each sample, in the chain's order."""
    return [step.artifact.record for step in _sample_steps(run)]


def n_samples(run: RowRun) -> int:
    """Return the number of questions."""
    return run.answers.record.rows["answers"] if run.answers is not None else 0


def n_parameters(run: RowRun) -> int:
    """Return the number of parameters that a sample passes: ViT and language model once, and each Q-Former."""
    from pipeline.models.checkpoint import count_parameters

    backbone = next(step.artifact for step in run.steps if isinstance(step.artifact, Backbone))
    assert run.run is not None
    n_frozen, n_q_former = count_parameters(backbone.config(run.run))
    n_q_formers = sum(step.stage.name in ("score_frames", "answer_questions") for step in _sample_steps(run))
    return n_frozen + n_q_former * n_q_formers


def _sample_steps(run: RowRun) -> list[DeferredStep]:
    steps = {step.stage.name: step for step in run.steps if not step.setting.endswith(OF_TRAINING)}
    return [steps[name] for name in PER_SAMPLE if name in steps]


def peak_gigabytes(record: Record) -> float:
    """Return the peak memory of a step, GPU memory if it ran on a GPU."""
    return (record.peak_gpu_memory_bytes or record.peak_memory_bytes) / 1e9


COSTS: dict[str, Callable[[RowRun], float]] = {
    "seconds": lambda run: sum(record.seconds for record in cost_records(run)) / max(1, n_samples(run)),
    "memory": lambda run: max(map(peak_gigabytes, cost_records(run))),
    "parameters": lambda run: n_parameters(run) / 1e9,
}
