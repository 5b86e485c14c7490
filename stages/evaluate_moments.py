"""Moments -> retrieval and highlight metrics of the benchmark QVHighlights, with the denominator stated."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import NamedTuple

import numpy as np

from pipeline.engine.joined import refuse_unknown, row_where
from pipeline.engine.output import Output
from pipeline.engine.row_schema import schema_of
from pipeline.engine.stage import Artifact, Config, RunContext, stage
from pipeline.inference.not_finite import SCORES
from pipeline.metrics.coverage import MissingVideo, coverage
from pipeline.metrics.moment_metrics import (
    IOU_THRESHOLDS,
    LENGTH_RANGES_SECONDS,
    HighlightScores,
    RetrievalScores,
    benchmark_report,
    format_report,
    highlight_scores,
    retrieval_scores,
)
from pipeline.selection.moments import Query
from pipeline.text_table import Table, aligned
from stages.list_questions import Questions
from stages.retrieve_moments import Moments


class MomentMetricsRow(NamedTuple):
    """Retrieval of the windows of one range of lengths at one IoU threshold; a row of the table `moment_metrics`."""

    window_length: str  # full, long, middle or short
    iou_threshold: float  # minimum overlap of a retrieved and a true window, 0 to 1
    n_queries: int  # with a true window of that length
    recall_at_one_percent: float | None  # None when n_queries is 0
    mean_average_precision_percent: float | None


class HighlightsRow(NamedTuple):
    """Highlight detection at one level; a row of the table `highlights`."""

    level: str  # minimum rating of a highlight: Fair, Good or VeryGood; no rows without ratings
    n_queries: int  # with rated clips; a failed query counts as one without predictions
    mean_average_precision_percent: float
    hit_at_one_percent: float  # share of queries whose highest-scored clip is a highlight


class QueryCounts(NamedTuple):
    """Numbers of queries; the row of the table `counts`."""

    n_queries: int  # with known true moments
    n_unlabelled: int  # others, which are in no percentage
    n_failed: int  # of n_queries: unreadable video or no finite scores; counted as without predictions
    n_without_moments: int  # of n_queries: no frame with answer yes; likewise


class MomentMetrics(Artifact):
    """R1 and mAP by range of window lengths and IoU threshold; `metrics.json` has the benchmark's layout."""

    kind = "moment_metrics"
    tables = {
        "moment_metrics": schema_of(1, MomentMetricsRow),
        "highlights": schema_of(1, HighlightsRow),
        "counts": schema_of(1, QueryCounts),
        "missing_videos": schema_of(1, MissingVideo),
    }

    def headline(self) -> MomentMetricsRow:
        """Return the row by which retrieval is compared: all window lengths, IoU 0.5."""
        rows = self.typed_rows("moment_metrics", MomentMetricsRow)
        return row_where(self, "moment_metrics", rows, lambda row: row[:2] == ("full", 0.5))

    def text(self, table: Table = aligned) -> str:
        """Return the tables and the numbers of queries."""
        counts = row_where(self, "counts", self.typed_rows("counts", QueryCounts), lambda row: True)
        if not counts.n_queries:
            return f"{counts.n_unlabelled} queries, none of them with known moments: nothing to evaluate"
        return (
            f"{format_report(json.loads(self.checked_file('metrics.json').read_text()), table)}\n\n"
            f"{counts.n_queries} queries, of which {counts.n_failed} failed and {counts.n_without_moments} have no "
            f"moment (all of them count as wrong); {counts.n_unlabelled} others have no known moments; "
            f"{self.record.rows['missing_videos']} videos could not be read (`sevila cache show {self.id}` lists them)"
            + ("" if self.record.rows["highlights"] else "\nno highlights: the annotations do not rate clips")
        )


class EvaluateMoments(Config):
    """Nothing to choose yet."""


@stage(version=2, output=MomentMetrics)
def evaluate_moments(
    cfg: EvaluateMoments, run: RunContext, questions: Questions, moments: Moments, *, out: Output
) -> None:
    """Evaluate retrieved moments against the true ones."""
    true = questions.true_moments()
    queries, predicted = moments.queries_of(questions)
    known = [query for query in queries if query.question_id in true]
    retrieval = retrieval_scores(
        [np.array(predicted[query.question_id], np.float64).reshape(-1, 3) for query in known],
        [true[query.question_id] for query in known],
    )
    rows = [row for length in LENGTH_RANGES_SECONDS for row in _rows(length, retrieval[length])]
    out.write_rows("moment_metrics", rows)
    highlights = _highlights(questions, queries)
    highlight_rows = [
        HighlightsRow(level, scores.n_queries, scores.mean_average_precision, scores.hit_at_one)
        for level, scores in (highlights or {}).items()
    ]
    out.write_rows("highlights", highlight_rows)
    n_failed = sum(query.status != "ok" for query in known)
    n_without_moments = sum(query.status == "ok" and query.n_moments == 0 for query in known)
    out.write_rows("counts", [QueryCounts(len(known), len(queries) - len(known), n_failed, n_without_moments)])
    _, missing = coverage((query.video_id, query.reason) for query in queries if query.reason.code != SCORES)
    out.write_rows("missing_videos", [asdict(video) for video in missing])
    (out.folder / "metrics.json").write_text(json.dumps(benchmark_report(retrieval, highlights), indent=1))
    out.add_file("metrics.json")


def _highlights(questions: Questions, queries: Sequence[Query]) -> dict[str, HighlightScores] | None:
    """Return the scores by level over the queries with rated clips; None if there is none."""
    ratings_by_id: dict[str, list[np.ndarray]] = defaultdict(list)
    table = questions.columns("ratings", "question_id", "ratings")
    refuse_unknown(questions, table["question_id"], [query.question_id for query in queries], "ratings")
    for question_id, ratings in zip(*table.values(), strict=True):
        ratings_by_id[question_id].append(ratings)
    rated = [query for query in queries if query.question_id in ratings_by_id]
    if not rated:
        return None
    return highlight_scores(
        [np.array(query.clip_scores, np.float64) for query in rated],
        [np.array(ratings_by_id[query.question_id], np.float64) for query in rated],
    )


def _rows(length: str, scores: RetrievalScores) -> Iterator[MomentMetricsRow]:
    for threshold, *percents in zip(IOU_THRESHOLDS, scores.recall_at_one, scores.mean_average_precision, strict=True):
        values = map(float, percents) if scores.n_queries else (None, None)
        yield MomentMetricsRow(length, threshold, scores.n_queries, *values)
