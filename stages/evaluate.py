"""Evaluation: answers -> accuracy, with the denominator stated (an unanswered question counts as wrong)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from sys import intern
from typing import Literal, NamedTuple

from pydantic import Field

from pipeline.datasets.adapter import headline_of, pooled_types_of
from pipeline.datasets.question import Question
from pipeline.datasets.registry import adapter_named
from pipeline.engine.joined import typed_rows_of_all
from pipeline.engine.output import Output
from pipeline.engine.row_schema import schema_of
from pipeline.engine.stage import Artifact, Config, RunContext, stage
from pipeline.engine.typed_rows import ByKey
from pipeline.metrics.accuracy import AccuracyRow, Answered, Outcome, Reporting, accuracy_table, format_accuracy_table
from pipeline.metrics.coverage import CoverageRow, MissingVideo, coverage, format_coverage
from pipeline.metrics.resampling import Resampling
from pipeline.text_table import Table, aligned
from stages.answer_questions import Answers
from stages.list_questions import Questions


class Metrics(Artifact):
    """Accuracy as the data set reports it, and the coverage of questions; `metrics.json` has the same rows."""

    kind = "metrics"
    tables = {
        "metrics": schema_of(2, AccuracyRow),
        "coverage": schema_of(1, CoverageRow),
        "missing_videos": schema_of(1, MissingVideo),
    }

    def headline(self) -> AccuracyRow:
        """Return the row of the number by which the data set is compared."""
        return next(row for row in self.accuracies() if row.is_headline)

    def accuracies(self) -> Sequence[AccuracyRow]:
        """Return the rows of the accuracy table, in its order."""
        return self.typed_rows("metrics", AccuracyRow)

    def text(self, table: Table = aligned) -> str:
        """Return the accuracy table and the coverage."""
        config = self.record.config
        covered = self.typed_rows("coverage", CoverageRow)
        by = config["bootstrap"]
        method = f"95 % by {by}: percentile bootstrap, {config['resamples']:,} resamples of {by}s"
        listed = "; every missing video is listed in metrics.json" if len(covered) > 1 else ""
        parts = [format_accuracy_table(self.accuracies(), by, table), method, format_coverage(covered) + listed]
        return "\n\n".join(parts)


class Evaluate(Config):
    """How the confidence intervals are computed."""

    bootstrap: Literal["video", "question"] = Field(
        "video", description="unit of resampling: video, as its questions are not independent, or question"
    )
    resamples: int = Field(10_000, ge=100, description="bootstrap resamples")
    seed: int = Field(0, ge=0, description="seed of the resamples")

    def resampling(self) -> Resampling:
        """Return these settings as an argument of `accuracy_table`."""
        return Resampling(self.bootstrap, self.resamples, self.seed)


@stage(version=4, output=Metrics)
def evaluate(cfg: Evaluate, run: RunContext, questions: Questions, answers: Answers, *, out: Output) -> None:
    """Compare predictions with the right options, and count the questions that could not be asked."""
    answered = typed_rows_of_all(answers, "answers", questions, Answered)
    by_id = ByKey(questions.column("questions", "question_id"), questions.typed_rows("questions", AnswerKey))
    reported = reporting(questions)  # first, as it refuses a null question type
    table = accuracy_table(outcomes(by_id, answered), reported, cfg.resampling())
    covered, missing = coverage((answer.video_id, answer.reason) for answer in answered)
    missing = [video for video in missing if video.reason.code not in Answers.reasons_of_questions]
    content = {
        "metrics": [dataclasses.asdict(row) for row in table],
        "coverage": [dataclasses.asdict(row) for row in covered],
        "missing_videos": [dataclasses.asdict(video) for video in missing],
    }
    for name, rows in content.items():
        out.write_rows(name, rows)
    (out.folder / "metrics.json").write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    out.add_file("metrics.json")


class AnswerKey(NamedTuple):
    """The right option of a question, and what it is reported under, without its text."""

    answer_index: int | None
    question_type: str
    question_group: str


def outcomes(questions: Mapping[str, Question | AnswerKey], answers: Iterable[Answered]) -> list[Outcome]:
    """Return what became of each answer, in their order, given all questions by id."""

    def outcome(question: Question | AnswerKey, answer: Answered) -> Outcome:
        of = map(intern, (answer.video_id, question.question_type, question.question_group))  # one object of equal ones
        return Outcome(question.answer_index, answer.prediction, *of)

    return [outcome(questions[answer.question_id], answer) for answer in answers]


def reporting(questions: Questions) -> Reporting:
    """Return how the data set of these questions reports its results, as its adapter declares."""
    adapter = adapter_named(questions.record.config["dataset"])
    types = set(questions.column("questions", "question_type"))
    return Reporting(headline_of(adapter, types), pooled_types_of(adapter))
