"""Moments -> the benchmark's retrieval metrics (QVHighlights), with the denominator stated."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from typing import Any

import numpy as np

from cache.tables import Schema
from pipeline.coverage import coverage
from pipeline.moment_metrics import (
    IOU_THRESHOLDS,
    LENGTH_RANGES_SECONDS,
    RetrievalScores,
    benchmark_report,
    format_report,
    retrieval_scores,
)
from pipeline.output import Output
from pipeline.stage import Artifact, Config, RunContext, stage
from stages.list_questions import Questions
from stages.retrieve_moments import Moments


class MomentMetrics(Artifact):
    """R1 and mAP by range of window lengths and IoU threshold; in the benchmark's own layout in `metrics.json`."""

    kind = "moment_metrics"
    tables = {
        "moment_metrics": Schema(
            1,
            window_length="string",  # full, long, middle or short
            iou_threshold="float64",
            n_queries="int32",  # those with a true window of that length
            recall_at_one_percent="float64",  # null when n_queries is 0
            mean_average_precision_percent="float64",
        ),
        "counts": Schema(
            1,
            n_queries="int32",  # those whose true moments are known
            n_unlabelled="int32",  # others; in no percentage
            n_failed="int32",  # of n_queries: the video could not be read; counted as found nothing
            n_without_moments="int32",  # of n_queries: no frame was yes; likewise
        ),
        "missing_videos": Schema(1, video_id="string", reason="string", n_questions="int32"),
    }

    def text(self) -> str:
        """Return the tables for a terminal."""
        (counts,) = self.rows("counts")
        if not counts["n_queries"]:
            return f"{counts['n_unlabelled']} queries, none of them with known moments: nothing to evaluate"
        return (
            f"{format_report(json.loads((self.path / 'metrics.json').read_text()))}\n\n"
            f"{counts['n_queries']} queries, of which {counts['n_failed']} failed and {counts['n_without_moments']} have no "
            f"moment (all of them count as wrong); {counts['n_unlabelled']} others have no known moments; "
            f"{self.record.rows['missing_videos']} videos could not be read (`sevila cache show {self.id}` lists them)\n"
            f"highlights need the annotations' ratings: `sevila moments export {self.record.inputs['moments']} -o FILE`, then "
            "`sevila moments evaluate FILE ANNOTATIONS`"
        )


class EvaluateMoments(Config):
    """Nothing to choose yet."""


@stage(version=1, output=MomentMetrics)
def evaluate_moments(
    cfg: EvaluateMoments, run: RunContext, questions: Questions, moments: Moments, *, out: Output
) -> None:
    """Hold retrieved moments against the true ones."""
    true, predicted = true_moments(questions), _predicted(moments)
    queries = moments.rows("queries")
    known = [query for query in queries if query["question_id"] in true]
    found = retrieval_scores(
        [predicted.get(query["question_id"], np.empty((0, 3))) for query in known],
        [true[query["question_id"]] for query in known],
    )
    out.write_rows("moment_metrics", [row for length in LENGTH_RANGES_SECONDS for row in _rows(length, found[length])])
    counts = {
        "n_queries": len(known),
        "n_unlabelled": len(queries) - len(known),
        "n_failed": sum(query["status"] != "ok" for query in known),
        "n_without_moments": sum(query["status"] == "ok" and query["n_moments"] == 0 for query in known),
    }
    out.write_rows("counts", [counts])
    _, missing = coverage((query["video_id"], query["reason"]) for query in queries)
    out.write_rows("missing_videos", [dataclasses.asdict(video) for video in missing])
    (out.folder / "metrics.json").write_text(json.dumps(benchmark_report(found, None), indent=1))
    out.add_file("metrics.json")


def true_moments(questions: Questions) -> dict[str, np.ndarray]:
    """Return the true moments, [G, 2] in seconds, of the questions for which they are known."""
    windows: dict[str, list[list[float]]] = defaultdict(list)
    for row in questions.rows("moments"):
        windows[row["question_id"]].append([row["start_seconds"], row["end_seconds"]])
    return {question_id: np.array(values, np.float64) for question_id, values in windows.items()}


def _predicted(moments: Moments) -> dict[str, np.ndarray]:
    windows: dict[str, list[list[float]]] = defaultdict(list)
    for row in moments.rows("moments"):  # by rank within a question, which is what the metrics want
        windows[row["question_id"]].append([row["start_seconds"], row["end_seconds"], row["score"]])
    return {question_id: np.array(values, np.float64) for question_id, values in windows.items()}


def _rows(length: str, scores: RetrievalScores) -> list[dict[str, Any]]:
    percents = zip(IOU_THRESHOLDS, scores.recall_at_one, scores.mean_average_precision, strict=True)
    return [
        {
            "window_length": length,
            "iou_threshold": threshold,
            "n_queries": scores.n_queries,
            "recall_at_one_percent": float(recall) if scores.n_queries else None,
            "mean_average_precision_percent": float(precision) if scores.n_queries else None,
        }
        for threshold, recall, precision in percents
    ]
