"""Answers -> accuracy, with the denominator stated (an unanswered question counts as wrong)."""

from __future__ import annotations

import dataclasses
import json

from cache.tables import Schema
from pipeline.metrics import AccuracyRow, accuracy_table, format_accuracy_table
from pipeline.output import Output
from pipeline.stage import Artifact, Config, RunContext, stage
from stages.answer_questions import Answers
from stages.list_questions import Questions


class Metrics(Artifact):
    """Accuracy overall, by group and by type of question; the same rows in `metrics.json`."""

    kind = "metrics"
    tables = {
        "metrics": Schema(
            1,
            scope="string",  # overall, group or type
            name="string",
            n_questions="int32",  # those whose right option is known
            n_correct="int32",
            n_unanswered="int32",
            n_unlabelled="int32",  # questions whose right option the file does not give; not in n_questions
            accuracy_percent="float64",  # null when n_questions is 0
            low_percent="float64",  # 95 % Wilson interval
            high_percent="float64",
            unanswered_percent="float64",
        )
    }

    def text(self) -> str:
        """Return the table for a terminal."""
        return format_accuracy_table([AccuracyRow(**row) for row in self.rows("metrics")])


class Evaluate(Config):
    """Nothing to choose yet."""


@stage(version=1, output=Metrics)
def evaluate(cfg: Evaluate, run: RunContext, questions: Questions, answers: Answers, *, out: Output) -> None:
    """Compare predictions with the right options."""
    asked = {question["question_id"]: question for question in questions.rows("questions")}
    groups = {question["question_type"]: question["question_group"] for question in asked.values()}
    rows = accuracy_table(
        [
            (
                asked[row["question_id"]]["answer_index"],
                row["prediction"],
                asked[row["question_id"]]["question_type"],
            )
            for row in answers.rows("answers")
        ],
        groups.__getitem__,
    )
    table = [dataclasses.asdict(row) for row in rows]
    out.write_rows("metrics", table)
    (out.folder / "metrics.json").write_text(json.dumps(table, indent=1))
    out.add_file("metrics.json")
