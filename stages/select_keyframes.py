"""Frame scores -> the few frames that the Answerer reads."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from cache.tables import Schema
from pipeline.batching import runs_of
from pipeline.output import Output
from pipeline.selection import RankBy, random_positions, ranking_scores, top_k_positions, uniform_positions
from pipeline.stage import Artifact, Config, RunContext, stage
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

    method: Literal["localizer", "uniform", "random"] = Field(
        "localizer", description="highest scores; evenly spread over the sampled frames; or a seeded draw"
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
    clips = frames.clips()
    asked = {video["video_id"]: (order, video) for order, video in enumerate(frames.rows("videos"))}
    ranked = _ranked(cfg, scores) if scores is not None else {}
    rows = []
    for question in sorted(questions.rows("questions"), key=lambda question: asked[question["video_id"]][0]):
        video = asked[question["video_id"]][1]
        row: dict[str, Any] = {name: question[name] for name in ("question_id", "video_id", "clip_id")}
        row |= {"status": video["status"], "reason": video["reason"]}
        row |= {"positions": [], "frame_indices": [], "seconds": [], "rows": [], "scores": []}
        if video["status"] == "ok":
            clip = clips[question["video_id"], question["clip_id"]]
            values = ranked.get(question["question_id"])
            positions = _positions(cfg, len(clip["row"]), values, question["question_id"])
            row["positions"] = positions.tolist()
            row["frame_indices"] = clip["frame_index"][positions].tolist()
            row["seconds"] = clip["seconds"][positions].tolist()
            row["rows"] = clip["row"][positions].tolist()
            row["scores"] = [] if values is None else values[positions].tolist()
        else:
            out.dropped[row["reason"].split(":")[0]] += 1
        rows.append(row)
    out.write_rows("keyframes", rows)


def _ranked(cfg: SelectKeyframes, scores: FrameScores) -> dict[str, np.ndarray]:
    """Return each question's ranking values, by position."""
    table = scores.columns("frame_scores", "question_id", "logit_yes", "logit_no", "probability_yes")
    values = ranking_scores(table["logit_yes"], table["logit_no"], table["probability_yes"], cfg.rank_by)
    return {question_id: values[where] for question_id, where in runs_of(table["question_id"]).items()}


def _positions(cfg: SelectKeyframes, n_frames: int, values: np.ndarray | None, question_id: str) -> np.ndarray:
    if cfg.method == "uniform":
        return uniform_positions(n_frames, cfg.k)
    if cfg.method == "random":
        # Seeded by the question, so that another order or another set of questions changes nobody's frames.
        return random_positions(n_frames, cfg.k, np.random.default_rng([cfg.seed, *question_id.encode()]))
    assert values is not None and len(values) == n_frames, question_id
    return top_k_positions(values, cfg.k)
