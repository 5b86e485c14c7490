"""Moment retrieval: frame scores -> the moments of the video that match a query (paper section 4.5)."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from pipeline.datasets.question import QuestionClip
from pipeline.datasets.readers.values import CLIP_SECONDS
from pipeline.engine.joined import refuse_cut, typed_rows_of_all
from pipeline.engine.output import Output
from pipeline.engine.row_schema import schema_of
from pipeline.engine.stage import Artifact, Config, RunContext, stage
from pipeline.inference.not_finite import WITHOUT_FEATURES
from pipeline.reasons import Reason
from pipeline.selection.keyframes import RankBy
from pipeline.selection.moments import Query, RankedMoment, clip_values, interval_edges, ranked_moments, yes_spans
from pipeline.video.frames import SampledVideo, clip_bounds
from stages.list_questions import Questions
from stages.sample_frames import Frames
from stages.score_frames import FrameScores


class Moments(Artifact):
    """The moments of every query, best first, and a row per query with its outcome."""

    kind = "moments"
    tables = {
        "moments": schema_of(1, RankedMoment),
        "queries": schema_of(2, Query),
    }

    def queries_of(self, questions: Questions) -> tuple[Sequence[Query], dict[str, list[list[float]]]]:
        """Return the rows of `queries`, and the moments of each by question id, best first, as [start, end, score].

        Raises `CorruptArtifactError` unless each question has a row and each row its number of moments.
        """
        queries = typed_rows_of_all(self, "queries", questions, Query)
        windows: dict[str, list[list[float]]] = defaultdict(list)
        for moment in self.typed_rows("moments", RankedMoment):
            windows[moment.question_id].append([moment.start_seconds, moment.end_seconds, moment.score])
        expected = [(query.question_id, query.n_moments) for query in queries if query.n_moments]
        stored = [(id, len(query_windows)) for id, query_windows in windows.items()]
        refuse_cut(self, stored, self, expected, "queries with their moments")
        return queries, windows


class RetrieveMoments(Config):
    """How frames are joined to moments."""

    span_threshold: int = Field(
        6, ge=0, description="maximum number of consecutive no frames inside a moment (paper: 6)"
    )
    yes_margin: float = Field(
        0.0, allow_inf_nan=False, description="a frame is yes if logit_yes exceeds logit_no by more than this"
    )
    rank_by: RankBy = Field(
        "probability_yes", description="score of a frame, from which moments are scored (not stated in the paper)"
    )
    score_by: Literal["mean", "max"] = Field("mean", description="score of a moment: mean or maximum of its frames")
    without_yes: Literal["nothing", "best_frame"] = Field(
        "nothing", description="moments of a query without a yes frame: none, or its highest-scored frame"
    )


@stage(version=2, output=Moments)
def retrieve_moments(
    cfg: RetrieveMoments, run: RunContext, questions: Questions, frames: Frames, scores: FrameScores, *, out: Output
) -> None:
    """Join neighbouring frames for which the Localizer answers yes to ranked moments."""
    frames.clips_of(questions)  # refuses frames of other questions
    videos = {video.video_id: video for video in frames.videos()}
    by_question = scores.by_question()
    values = by_question.ranking(cfg.rank_by)
    ids, counts, moments = list[str](), array("q"), array("d")

    def query_of(question: QuestionClip) -> Query:
        id, video = question.question_id, videos[question.video_id]
        reason = video.reason
        if video.status == "ok" and id not in values:
            reason = by_question.failed.get(id, WITHOUT_FEATURES)
        if reason:
            out.dropped[reason.code] += 1
            return Query(id, question.video_id, "failed", reason)
        is_yes = by_question.margin(id) > cfg.yes_margin
        query, windows = _retrieve(cfg, question, video, values[id], is_yes)
        ids.append(id)
        counts.append(len(windows))
        moments.extend(windows.ravel())
        return query

    out.write_tuples("queries", map(query_of, questions.clips()))
    ranks = [np.arange(1, n + 1) for n in counts]
    columns = [np.array(ids, object).repeat(counts), np.concatenate([[], *ranks]).astype(np.int64)]
    columns += [*np.array(moments).reshape(-1, 3).T]
    out.write_columns("moments", dict(zip(RankedMoment._fields, columns, strict=True)))


def _retrieve(
    cfg: RetrieveMoments, question: QuestionClip, video: SampledVideo, values: np.ndarray, is_yes: np.ndarray
) -> tuple[Query, np.ndarray]:
    """Return a query's row and its moments, [S, 3]: start and end in seconds, score. `values` and `is_yes` are [T]."""
    n_video_frames, fps, duration = video.n_frames_in_video, video.frames_per_second, video.duration_seconds
    assert n_video_frames is not None and fps is not None and duration is not None, video
    start_frame, end_frame, _ = clip_bounds(n_video_frames, fps, question.start_seconds, question.end_seconds)
    spans = yes_spans(is_yes, cfg.span_threshold)
    if not len(spans) and cfg.without_yes == "best_frame":
        spans = np.array([[values.argmax(), values.argmax()]])
    edges = interval_edges(start_frame / fps, end_frame / fps, len(values))
    moments = ranked_moments(spans, values, edges, cfg.score_by)
    query = Query(
        question.question_id,
        question.video_id,
        "ok",
        Reason(),
        duration_seconds=duration,
        clip_start_seconds=edges[0],
        clip_end_seconds=edges[-1],
        n_yes_frames=int(is_yes.sum()),
        n_frames=len(values),
        n_moments=len(moments),
        clip_scores=clip_values(values, edges, duration, CLIP_SECONDS).tolist(),
    )
    return query, moments
