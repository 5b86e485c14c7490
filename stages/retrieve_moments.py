"""Frame scores -> the moments of the video that a query is about (paper section 4.5)."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Literal

import numpy as np
from pydantic import Field

from cache.tables import Schema
from pipeline.datasets.values import CLIP_SECONDS
from pipeline.engine.joined import refuse_cut, rows_of_all
from pipeline.engine.output import Output
from pipeline.engine.stage import Artifact, Config, RunContext, stage
from pipeline.inference.not_finite import WITHOUT_FEATURES
from pipeline.selection.keyframes import RankBy, ranking_scores
from pipeline.selection.moments import clip_values, interval_edges, ranked_moments, yes_spans
from pipeline.video.frames import clip_bounds
from stages.list_questions import Questions
from stages.sample_frames import Frames
from stages.score_frames import FrameScores


class Moments(Artifact):
    """The moments of every query, best first, and a row per query that says what they were found in."""

    kind = "moments"
    tables = {
        "moments": Schema(
            1,
            question_id="string",
            rank="int32",  # from 1, by score
            start_seconds="float64",  # in the video
            end_seconds="float64",
            score="float64",
        ),
        "queries": Schema(
            2,
            question_id="string",
            video_id="string",
            status="string",  # ok or failed
            reason="string",
            duration_seconds="float64",  # of the video; null when failed, as the three below
            clip_start_seconds="float64",  # the part of the video that was sampled
            clip_end_seconds="float64",
            n_yes_frames="int32",
            n_frames="int32",  # 0 when failed
            n_moments="int32",
            clip_scores="list<float64>",  # the frames' score for every 2 s of the video, its saliency; empty when failed
        ),
    }

    def queries_of(self, questions: Questions) -> tuple[list[dict[str, Any]], dict[str, list[list[float]]]]:
        """Return the rows of `queries`, and by question its moments, best first, as [start, end, score].

        Raises `CorruptArtifactError` unless each question has its row and each row its moments.
        """
        queries = rows_of_all(self, "queries", questions)
        windows: dict[str, list[list[float]]] = defaultdict(list)
        for row in self.rows("moments"):
            windows[row["question_id"]].append([row["start_seconds"], row["end_seconds"], row["score"]])
        wanted = [(row["question_id"], row["n_moments"]) for row in queries if row["n_moments"]]
        refuse_cut(self, [(id, len(each)) for id, each in windows.items()], self, wanted, "queries with their moments")
        return queries, windows


class RetrieveMoments(Config):
    """How frames become moments."""

    span_threshold: int = Field(
        6, ge=0, description="so many consecutive frames that are not yes are bridged (paper: 6)"
    )
    yes_margin: float = Field(
        0.0, allow_inf_nan=False, description="a frame is yes when logit_yes exceeds logit_no by more than this"
    )
    rank_by: RankBy = Field(
        "probability_yes", description="score of a frame, from which its moment's is made; ours, the paper does not say"
    )
    score_by: Literal["mean", "max"] = Field("mean", description="score of a moment, over its frames' scores")
    without_yes: Literal["nothing", "best_frame"] = Field(
        "nothing", description="moments of a query without a yes frame: none, or its highest-scored frame"
    )


@stage(version=2, output=Moments)
def retrieve_moments(
    cfg: RetrieveMoments, run: RunContext, questions: Questions, frames: Frames, scores: FrameScores, *, out: Output
) -> None:
    """Join neighbouring frames that the Localizer says yes to into ranked moments."""
    frames.clips_of(questions)  # refuses frames of other questions
    videos = {video["video_id"]: video for video in frames.rows("videos")}
    answers, not_finite = scores.by_question()
    queries, moments = [], []
    for question in questions.rows("questions"):
        id, video = question["question_id"], videos[question["video_id"]]
        if video["status"] == "ok" and id not in answers:
            video = video | {"status": "failed", "reason": not_finite.get(id, WITHOUT_FEATURES)}
        query, found = _retrieve(cfg, question, video, answers.get(id))
        queries.append(query)
        for rank, (start_seconds, end_seconds, score) in enumerate(found.tolist(), start=1):
            moments.append({"question_id": question["question_id"], "rank": rank, "start_seconds": start_seconds})
            moments[-1] |= {"end_seconds": end_seconds, "score": score}
        if query["status"] != "ok":
            out.dropped[query["reason"].split(":")[0]] += 1
    out.write_rows("moments", moments)
    out.write_rows("queries", queries)


def _retrieve(
    cfg: RetrieveMoments, question: dict[str, Any], video: dict[str, Any], answers: dict[str, np.ndarray] | None
) -> tuple[dict[str, Any], np.ndarray]:
    """Return a query's row and its moments, [S, 3]: start and end in seconds, score."""
    row: dict[str, Any] = dict.fromkeys(Moments.tables["queries"].columns)
    row |= {name: question[name] for name in ("question_id", "video_id")}
    row |= {"status": video["status"], "reason": video["reason"], "n_frames": 0, "n_moments": 0, "clip_scores": []}
    if video["status"] != "ok":
        return row, np.empty((0, 3))
    assert answers is not None, question["question_id"]
    fps, bounds = video["frames_per_second"], (question["start_seconds"], question["end_seconds"])
    start_frame, end_frame, _ = clip_bounds(video["n_frames_in_video"], fps, *bounds)
    is_yes = np.float64(answers["logit_yes"]) - np.float64(answers["logit_no"]) > cfg.yes_margin
    values = ranking_scores(**answers, rank_by=cfg.rank_by)
    spans = yes_spans(is_yes, cfg.span_threshold)
    if not len(spans) and cfg.without_yes == "best_frame":
        spans = np.array([[values.argmax(), values.argmax()]])
    edges = interval_edges(start_frame / fps, end_frame / fps, len(values))
    moments = ranked_moments(spans, values, edges, cfg.score_by)
    row |= {"duration_seconds": video["duration_seconds"], "n_yes_frames": int(is_yes.sum()), "n_frames": len(values)}
    row["clip_scores"] = clip_values(values, edges, video["duration_seconds"], CLIP_SECONDS).tolist()
    row |= {"clip_start_seconds": edges[0], "clip_end_seconds": edges[-1], "n_moments": len(moments)}
    return row, moments
