"""Import of external frame scores, of AKS or any other model, instead of the Localizer's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pydantic import Field

from cache.errors import SchemaError, SevilaError
from cache.tables import Schema
from pipeline.datasets.question import Question
from pipeline.datasets.readers.score_files import ScoredFrames, read_score_lists, read_score_table
from pipeline.datasets.readers.text_file import digests_of_what_is_read
from pipeline.engine.joined import refuse_cut
from pipeline.engine.output import Output
from pipeline.engine.sources import AnnotationFiles
from pipeline.engine.stage import Config, RunContext, stage
from pipeline.reasons import Reason
from pipeline.selection.frame_scores import columns_of_one_score
from pipeline.selection.imported import UNSCORED, scores_of_frames
from pipeline.video.frames import Clips, SampledVideo
from stages.list_questions import Questions
from stages.sample_frames import Frames
from stages.score_frames import FrameScores


class ImportedScores(FrameScores):
    """Frame scores from files: `logit_yes` and `probability_yes` are the score, `logit_no` is 0.

    Questions of readable videos without rows are in `unscored`.
    """

    tables = FrameScores.tables | {
        "unscored": Schema(1, question_id="string", reason="string"),
        # Unused parts of the files: a row for each question that is not asked.
        "unused": Schema(1, file="string", line="int64", reason="string"),
    }

    def without_scores(self) -> Mapping[str, Reason]:
        """Return the reason of each question of a readable video without rows, by question id."""
        return {row.question_id: row.reason for row in self.typed_rows("unscored", UnscoredQuestion)}

    def refuse_cut(self, n_frames: Collection[tuple[str, int]]) -> None:
        """As of any scores; here, all questions of readable videos are scored or unscored."""
        ids = [self.record.inputs.get(name) or "" for name in ("questions", "frames")]
        if all(map(self.store.exists, ids)):
            questions, frames = Questions(self.store, ids[0]), Frames(self.store, ids[1])
            ok = {video.video_id for video in frames.videos() if video.status == "ok"}
            wanted = [row.question_id for row in questions.clips() if row.video_id in ok]
            scored = [id for id, _ in n_frames]
            refuse_cut(self, [*scored, *self.without_scores()], questions, wanted, "questions")


class UnscoredQuestion(NamedTuple):
    """A question without scores, with the reason; a row of the table `unscored`."""

    question_id: str
    reason: Reason


class ImportScores(Config):
    """Which scores, and how they are matched to sampled frames."""

    scores: str = Field("scores", description="name of the scores, with a path in --scores NAME=PATH or sevila.toml")
    column: str = Field("score", description="column of the scores in a table")
    tolerance_seconds: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="maximum distance from a sampled frame to the nearest scored frame, whose score it gets; 0: the same frame",
    )


@stage(version=1, output=ImportedScores)
def import_scores(
    cfg: ImportScores, run: RunContext, questions: Questions, frames: Frames, given: AnnotationFiles, *, out: Output
) -> None:
    """Read the scores of the sampled frames from files; a question without scores for all frames gets a reason."""
    clips, videos = frames.clips_of(questions), frames.videos()
    by_video = questions.by_video()
    with digests_of_what_is_read() as read:
        scored = _read(cfg, given, questions)
    given.refuse_others(read)
    asked = {question.question_id for of_video in by_video.values() for question in of_video}
    unknown = {id: frames.line for id, frames in scored.items() if id not in asked}
    if len(unknown) == len(scored):
        raise SevilaError(
            f"{given.path}: none of its {len(scored)} questions is asked here, such as {min(unknown, default='')!r}; those asked "
            f"have ids such as {min(asked)!r}"
        )
    ok = [video for video in videos if video.status == "ok"]
    rows = [_scored(cfg, question, video, clips, scored) for video in ok for question in by_video[video.video_id]]
    unscored = [UnscoredQuestion(row.question.question_id, row.reason) for row in rows if row.reason]
    if rows and len(unscored) == len(rows):
        raise SevilaError(
            f"{given.path}: no question has scores for its sampled frames; {unscored[0].question_id}: {unscored[0].reason}"
        )
    out.write_columns("frame_scores", _columns([row for row in rows if not row.reason]))
    out.write_rows("unscored", unscored)
    assert given.path is not None
    unused = [(given.path.name, line, f"no question {id!r} is asked here") for id, line in unknown.items()]
    out.write_rows("unused", [dict(zip(("file", "line", "reason"), row, strict=True)) for row in unused])
    out.dropped.update(row.reason.code for row in unscored)
    out.dropped.update("unknown question" for _ in unknown)


def _read(cfg: ImportScores, given: AnnotationFiles, questions: Questions) -> Mapping[str, ScoredFrames]:
    """Return the scored frames of each question, by question id."""
    files = list(given.digests)
    if len(files) == 1:
        return read_score_table(files[0], cfg.column)
    entries = list(read_score_lists(*files))
    ids = [question.question_id for question in questions.questions()]
    is_cut = questions.record.config["limit"] is not None and len(entries) >= len(ids)
    n_rejected = questions.record.rows["rejected"]
    if n_rejected or (len(entries) != len(ids) and not is_cut):
        rejected = f" (and {n_rejected} rows of the annotations could not be used)" if n_rejected else ""
        raise SchemaError(
            f"{files[0]}: {len(entries)} entries for {len(ids)} questions{rejected}; "
            "expected one each in the annotations' order, as only the position of an entry identifies its question; or give a "
            "table with question_id"
        )
    return dict(zip(ids, entries, strict=False))


class _ScoredQuestion(NamedTuple):
    """A question, its clip, and the scores of the clip's frames, [T]; or the reason why there are none."""

    question: Question
    clip: dict[str, np.ndarray]
    reason: Reason
    values: np.ndarray


def _scored(
    cfg: ImportScores, question: Question, video: SampledVideo, clips: Clips, scored: Mapping[str, ScoredFrames]
) -> _ScoredQuestion:
    clip, scored_frames = clips[question.video_id, question.clip_id], scored.get(question.question_id)
    fps, n_frames = video.frames_per_second, video.n_frames_in_video
    assert fps is not None and n_frames is not None
    no_values = np.empty(0)
    if scored_frames is None:
        return _ScoredQuestion(question, clip, Reason(f"{UNSCORED}: the files have none for it"), no_values)
    places, values = scored_frames.places, scored_frames.values
    if places.dtype.kind == "f":
        places = np.rint(places * fps).astype(np.int64)
        places[places == n_frames] -= 1  # the end of the video is the end of the last frame
    if len(places) and places[-1] >= n_frames:
        reason = (
            f"{UNSCORED}: frame {places[-1]} is scored, and the video has {n_frames}: the scores are another video's"
        )
        return _ScoredQuestion(question, clip, Reason(reason), no_values)
    return _ScoredQuestion(
        question, clip, *scores_of_frames(clip["frame_index"], places, values, cfg.tolerance_seconds * fps)
    )


def _columns(rows: Sequence[_ScoredQuestion]) -> dict[str, np.ndarray]:
    lengths = [len(row.values) for row in rows]

    def joined(arrays: Sequence[np.ndarray], kind: type) -> np.ndarray:
        return np.concatenate([np.empty(0, kind), *arrays]).astype(kind)

    return {
        "question_id": np.repeat(np.array([row.question.question_id for row in rows], object), lengths),
        "video_id": np.repeat(np.array([row.question.video_id for row in rows], object), lengths),
        "position": joined([np.arange(length) for length in lengths], np.int32),
        "frame_index": joined([row.clip["frame_index"] for row in rows], np.int64),
        "seconds": joined([row.clip["seconds"] for row in rows], np.float64),
        **columns_of_one_score(joined([row.values for row in rows], np.float32)),
    }
