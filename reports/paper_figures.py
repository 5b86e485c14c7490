"""Numbers of the paper's tables out of artifacts: accuracies, moments, and what a sample costs."""

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
from reports.results import headline_interval
from stages.evaluate import Metrics, outcomes, reporting
from stages.evaluate_moments import MomentMetrics, MomentMetricsRow
from stages.list_questions import Questions

SideBySide = TypeVar("SideBySide", bound=tuple[RowRun, ...])
# What a first run pays for each sample, and of that what later runs pay again.
PER_SAMPLE = ("sample_frames", "extract_features", "score_frames", "select_keyframes", "answer_questions")
AGAIN = PER_SAMPLE[2:]


class FrameAnswer(NamedTuple):
    """What the Answerer says to one frame; a row of the table `frame_answers`."""

    question_id: str
    prediction: int | None


def figure(name: str, of: RowRun) -> Estimate | None:
    """Return a figure of a row: a column's `figure` in `paper.toml`; None where this row has none."""
    if not of.is_measured:
        return None
    if name in COSTS:
        with suppress(SevilaError):  # the weights may be gone by now, from which parameters are counted
            return Estimate(COSTS[name](of))
        return None
    if isinstance(of.metrics, MomentMetrics):
        return _of_moments(name, of.metrics)
    if name == "moment recall":
        recall = keyframe_row(of.localization).moment_recall_percent if of.localization is not None else None
        return None if recall is None else Estimate(recall)
    assert isinstance(of.metrics, Metrics)
    rows = _any_frame(of) if name == "any frame" else of.metrics.accuracies()
    of_name = [row for row in rows if (row.is_headline if name in ("accuracy", "any frame") else row.name == name)]
    return _estimate(of_name[0]) if of_name else None


def distinct(measured: Iterable[SideBySide]) -> list[SideBySide]:
    """Return one of those with the same numbers, of runs side by side: a seed that changes nothing is no further sample."""
    ids = {tuple(run.metrics.record.id for run in each if run.metrics): each for each in measured}
    return list(ids.values())


def _estimate(row: AccuracyRow) -> Estimate | None:
    return None if row.accuracy_percent is None else Estimate(row.accuracy_percent, *(headline_interval(row) or ()))


def _of_moments(name: str, metrics: MomentMetrics) -> Estimate | None:
    rows = [row for row in metrics.typed_rows("moment_metrics", MomentMetricsRow) if row.window_length == "full"]
    if name == "mAP":  # over all IoU thresholds
        values = [row.mean_average_precision_percent for row in rows]
    else:
        at = float(name.removeprefix("R1@"))
        values = [row.recall_at_one_percent for row in rows if abs(row.iou_threshold - at) < 1e-6]
    known = [value for value in values if value is not None]
    return Estimate(mean(known)) if known else None


def _any_frame(of: RowRun) -> list[AccuracyRow]:
    """Return the accuracies of one who picks, of the options that single frames voted for, the right one wherever it is."""
    answers = of.answers
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


def cost_records(of: RowRun) -> list[Record]:
    """Return the records of the steps that each sample pays for, in the chain's order."""
    return [step.artifact.record for step in _on_samples(of)]


def n_samples(of: RowRun) -> int:
    """Return the number of questions."""
    return of.answers.record.rows["answers"] if of.answers is not None else 0


def n_parameters(of: RowRun) -> int:
    """Return the parameters of all models that a sample passes: ViT and language model once, each Q-Former once."""
    from pipeline.models.checkpoint import count_parameters

    backbone = next(step.artifact for step in of.steps if isinstance(step.artifact, Backbone))
    assert of.run is not None
    frozen, own = count_parameters(backbone.config(of.run))
    return frozen + own * sum(step.stage.name in ("score_frames", "answer_questions") for step in _on_samples(of))


def _on_samples(of: RowRun) -> list[DeferredStep]:
    steps = {step.stage.name: step for step in of.steps if not step.setting.endswith(OF_TRAINING)}
    return [steps[name] for name in PER_SAMPLE if name in steps]


def peak_gigabytes(record: Record) -> float:
    """Return the most memory that a step took: the GPU's where it ran on one."""
    return (record.peak_gpu_memory_bytes or record.peak_memory_bytes) / 1e9


COSTS: dict[str, Callable[[RowRun], float]] = {
    "seconds": lambda of: sum(record.seconds for record in cost_records(of)) / max(1, n_samples(of)),
    "memory": lambda of: max(map(peak_gigabytes, cost_records(of))),
    "parameters": lambda of: n_parameters(of) / 1e9,
}
