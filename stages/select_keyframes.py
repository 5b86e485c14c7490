"""Frame scores -> the few frames that the Answerer reads."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from cache.tables import Schema
from pipeline.engine.output import Output
from pipeline.engine.stage import Artifact, Config, RunContext, stage
from pipeline.inference.not_finite import WITHOUT_FEATURES
from pipeline.reasons import Reason
from pipeline.selection.keyframes import (
    RankBy,
    oracle_positions,
    random_positions,
    top_k_positions,
    uniform_positions,
)
from stages.list_questions import Questions
from stages.sample_frames import Frames
from stages.score_frames import FrameScores


class Keyframes(Artifact):
    """One row per question, in the order of videos and questions: its keyframes in time order, or why it has none."""

    kind = "keyframes"
    tables = {
        "keyframes": Schema(
            1,
            question_id="string",
            video_id="string",
            clip_id="string",
            status="string",  # ok or failed
            reason="string",
            positions="list<int32>",  # in the clip's sampled frames
            frame_indices="list<int64>",  # in the video
            seconds="list<float64>",
            rows="list<int32>",  # of the video's stored frames and features
            scores="list<float64>",  # what they were ranked by; empty unless the Localizer chose
        )
    }


NO_MOMENTS = Reason("no_moments: the oracle needs the true moments, and the annotations do not give this question's")


class SelectKeyframes(Config):
    """Which sampled frames become keyframes."""

    method: Literal["localizer", "uniform", "random", "oracle"] = Field(
        "localizer",
        description="highest scores; evenly spread over the sampled frames; a seeded draw; or evenly spread over the frames "
        "that lie in a true moment (where the data set knows them: the most that any choice of frames could give)",
    )
    k: int = Field(4, ge=1, description="keyframes per question; a clip with fewer frames gives all it has")
    rank_by: RankBy = Field(
        "logit_yes",
        description="score of the localizer method: the official code's, the paper's, or yes against no alone",
    )
    seed: int = Field(0, ge=0, description="seed of the random method")


@stage(version=1, output=Keyframes)
def select_keyframes(
    cfg: SelectKeyframes,
    run: RunContext,
    questions: Questions,
    frames: Frames,
    scores: FrameScores | None,
    *,
    out: Output,
) -> None:
    """Choose k of each clip's sampled frames."""
    clips, videos = frames.clips_of(questions), {video.video_id: video for video in frames.videos()}
    order = {video_id: number for number, video_id in enumerate(videos)}
    choose = _ChooseFrames(cfg, questions, scores)
    columns: dict[str, list[Any]] = {name: [] for name in Keyframes.tables["keyframes"].columns}
    for question in sorted(questions.questions(), key=lambda question: order[question.video_id]):
        video, chosen = videos[question.video_id], NOTHING
        if video.status == "ok":
            chosen = choose(question.question_id, clips[question.video_id, question.clip_id])
        reason = chosen.reason or video.reason
        if reason:
            out.dropped[reason.code] += 1
        row = (
            question.question_id,
            question.video_id,
            question.clip_id,
            "failed" if reason else "ok",
            reason,
            *chosen[1:],
        )
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    out.write_columns("keyframes", columns)


class _Chosen(NamedTuple):
    """A question's k keyframes, in time order, each [k]: the columns of its row; or why it has none."""

    reason: Reason
    positions: np.ndarray
    frame_indices: np.ndarray
    seconds: np.ndarray
    rows: np.ndarray
    scores: np.ndarray


NONE_INT, NONE_FLOAT = np.empty(0, np.int64), np.empty(0, np.float64)
NOTHING = _Chosen(Reason(), NONE_INT, NONE_INT, NONE_FLOAT, NONE_INT, NONE_FLOAT)


class _ChooseFrames:
    """Chooses the frames of one question after the other."""

    def __init__(self, cfg: SelectKeyframes, questions: Questions, scores: FrameScores | None) -> None:
        self._cfg = cfg
        by_question = scores.by_question() if scores is not None else None
        self._values = by_question.ranking(cfg.rank_by) if by_question else {}
        self._failed = by_question.failed if by_question else {}
        self._moments = questions.true_moments() if cfg.method == "oracle" else {}

    def __call__(self, question_id: str, clip: dict[str, np.ndarray]) -> _Chosen:
        """Return the question's frames, or why it has none."""
        values = self._values.get(question_id)
        if self._cfg.method == "localizer" and values is None:
            return NOTHING._replace(reason=self._failed.get(question_id, WITHOUT_FEATURES))
        if self._cfg.method == "oracle" and question_id not in self._moments:
            return NOTHING._replace(reason=NO_MOMENTS)
        at = self._positions(question_id, clip, values)
        if not len(at):
            reason = f"no_true_frame: none of the {len(clip['row'])} sampled frames lies in a true moment"
            return NOTHING._replace(reason=Reason(reason))
        ranked_by = NONE_FLOAT if values is None else values[at]
        return _Chosen(Reason(), at, clip["frame_index"][at], clip["seconds"][at], clip["row"][at], ranked_by)

    def _positions(self, question_id: str, clip: dict[str, np.ndarray], values: np.ndarray | None) -> np.ndarray:
        cfg, n_frames = self._cfg, len(clip["row"])
        if cfg.method == "uniform":
            return uniform_positions(n_frames, cfg.k)
        if cfg.method == "random":
            # Seeded by the question, so that another order or another set of questions changes nobody's frames.
            return random_positions(n_frames, cfg.k, np.random.default_rng([cfg.seed, *question_id.encode()]))
        if cfg.method == "oracle":
            return oracle_positions(clip["seconds"], self._moments[question_id], cfg.k)
        assert values is not None and len(values) == n_frames, question_id
        return top_k_positions(values, cfg.k)
