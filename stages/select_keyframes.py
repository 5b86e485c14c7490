"""Frame scores -> the few frames that the Answerer reads."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from cache.tables import Schema
from pipeline.engine.output import Output
from pipeline.engine.stage import Artifact, Config, RunContext, stage
from pipeline.inference.not_finite import WITHOUT_FEATURES
from pipeline.selection.keyframes import (
    RankBy,
    oracle_positions,
    random_positions,
    ranking_scores,
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
    clips = frames.clips_of(questions)
    asked = {video["video_id"]: (order, video) for order, video in enumerate(frames.rows("videos"))}
    choose = _Choice(cfg, questions, scores)
    rows = []
    for question in sorted(questions.rows("questions"), key=lambda question: asked[question["video_id"]][0]):
        video = asked[question["video_id"]][1]
        row: dict[str, Any] = {name: question[name] for name in ("question_id", "video_id", "clip_id")}
        row |= {"status": video["status"], "reason": video["reason"]}
        row |= {"positions": [], "frame_indices": [], "seconds": [], "rows": [], "scores": []}
        if video["status"] == "ok":
            row |= choose(question["question_id"], clips[question["video_id"], question["clip_id"]])
        if row["status"] != "ok":
            out.dropped[row["reason"].split(":")[0]] += 1
        rows.append(row)
    out.write_rows("keyframes", rows)


class _Choice:
    """Chooses the frames of one question after the other."""

    def __init__(self, cfg: SelectKeyframes, questions: Questions, scores: FrameScores | None) -> None:
        self._cfg = cfg
        answers, self._not_finite = scores.by_question() if scores is not None else ({}, {})
        self._values = {id: ranking_scores(**answer, rank_by=cfg.rank_by) for id, answer in answers.items()}
        self._moments = questions.true_moments() if cfg.method == "oracle" else {}

    def __call__(self, question_id: str, clip: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return what the question's row says of its frames, or why it has none."""
        values = self._values.get(question_id)
        if self._cfg.method == "localizer" and values is None:
            return _failed(self._not_finite.get(question_id, WITHOUT_FEATURES))
        if self._cfg.method == "oracle" and question_id not in self._moments:
            return _failed(
                "no_moments: the oracle needs the true moments, and the annotations do not give this question's"
            )
        positions = self._positions(question_id, clip, values)
        if not len(positions):
            return _failed(f"no_true_frame: none of the {len(clip['row'])} sampled frames lies in a true moment")
        return {
            "positions": positions.tolist(),
            "frame_indices": clip["frame_index"][positions].tolist(),
            "seconds": clip["seconds"][positions].tolist(),
            "rows": clip["row"][positions].tolist(),
            "scores": [] if values is None else values[positions].tolist(),
        }

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


def _failed(reason: str) -> dict[str, str]:
    return {"status": "failed", "reason": reason}
