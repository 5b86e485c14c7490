"""Keyframe selection: frame scores -> the frames that the Answerer reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import Field, ValidationInfo, field_validator, model_validator

from cache.errors import CorruptArtifactError, did_you_mean, rebuild_hint
from cache.fingerprint import fingerprint
from cache.tables import Schema
from pipeline.datasets.question import Question, QuestionClip
from pipeline.engine.joined import typed_rows_of_all
from pipeline.engine.output import Output
from pipeline.engine.stage import Artifact, Config, RunContext, stage
from pipeline.engine.typed_rows import Mapped
from pipeline.inference.not_finite import WITHOUT_FEATURES
from pipeline.inference.visual_windows import WINDOW_FRAMES
from pipeline.reasons import Reason
from pipeline.selection.keyframes import RANKED_BY, ChosenFrames, RankBy
from pipeline.selection.registry import selector_named, selector_names
from pipeline.selection.selector import Candidates, Options, Selector
from stages.extract_features import Features
from stages.list_questions import Questions
from stages.sample_frames import Frames
from stages.score_frames import FrameScores


class Keyframes(Artifact):
    """One row per question, in the order of videos and questions: its keyframes in time order, or the reason for none."""

    kind = "keyframes"
    tables = {
        "keyframes": Schema(
            1,
            "question_id",
            question_id="string",
            video_id="string",
            clip_id="string",
            status="string",  # ok or failed
            reason="string",
            positions="list<int32>",  # in the clip's sampled frames
            frame_indices="list<int64>",  # in the video
            seconds="list<float64>",
            rows="list<int32>",  # in the video's stored frames and features
            scores="list<float64>",  # that ranked the frames; empty unless the method is localizer
        )
    }

    def asked(self, questions: Questions, features: Features) -> Sequence[tuple[Question, ChosenFrames]]:
        """Return every question with its keyframes, in the order of rows; also failed if its video has no features."""
        known, failed = questions.by_id(), features.failures()

        def asked(row: ChosenFrames) -> tuple[Question, ChosenFrames]:
            return known[row.question_id], row._replace(reason=row.reason or failed.get(row.video_id, Reason()))

        return Mapped(asked, self.chosen(questions))

    def chosen(self, questions: Questions, frames: Frames | None = None) -> Sequence[ChosenFrames]:
        """Return every question's keyframes, in the order of rows; if `frames` are given, they are theirs.

        Raises `CorruptArtifactError` for others, when they are looked at.
        """
        rows = typed_rows_of_all(self, "keyframes", questions, ChosenFrames)
        if frames is None:
            return rows
        clips = frames.clips_of(questions)

        def checked(row: ChosenFrames) -> ChosenFrames:
            clip = clips.get((row.video_id, row.clip_id))
            if not row.reason and (clip is None or not row.are_of(clip)):
                raise CorruptArtifactError(
                    f"{self.id}: question {row.question_id!r} has frames {row.frame_indices} at positions {row.positions}; "
                    f"its clip in {frames.id} has others; {rebuild_hint(self.path)}"
                )
            return row

        return Mapped(checked, rows)

    def frames_digest(self) -> str:
        """Return a digest of each question's frames or reason, independent of how they were selected."""
        rows = self.typed_rows("keyframes", ChosenFrames)
        return fingerprint([[row.question_id, str(row.reason), row.frame_indices, row.rows] for row in rows])


NO_MOMENTS = Reason("no_moments: the oracle needs the true moments, and the annotations do not give this question's")
LOCALIZER, TOP_K = "localizer", "top_k"


class SelectKeyframes(Config):
    """How keyframes are selected: by a selector of `pipeline/selection/` or of another package."""

    later: ClassVar[Mapping[str, Any]] = {"selector": TOP_K, "options": {}, "selector_version": 1}

    method: str = Field(
        LOCALIZER,
        description="localizer: by scores, with `selector`; or a selector without scores, such as uniform (evenly spread over "
        "the sampled frames), random (a seeded draw), oracle (evenly spread over the frames in a true moment, if the data set "
        "has them: an upper bound)",
    )
    k: int = Field(4, ge=1, description="keyframes per question; all frames of a clip that has fewer")
    rank_by: RankBy = Field(
        "logit_yes",
        description="score of the localizer method: the official code's, the paper's, or yes minus no",
    )
    seed: int = Field(0, ge=0, description="seed of a random selector, such as random")
    selector: str = Field(
        TOP_K,
        description="selector by scores: top_k, aks, bolt, q_frame, peaks, mmr, dpp, mdp3 (docs/selection.md) or another "
        "package's; one without scores sets the method",
    )
    options: dict[str, Any] = Field(
        {},
        validate_default=True,
        description="options of the selector, such as {t1 = 0.9} for aks; others have defaults",
    )

    @model_validator(mode="before")
    @classmethod
    def _method_from_selector(cls, values: dict[str, Any]) -> dict[str, Any]:
        name = values.get("selector")
        if "method" in values or name not in selector_names() or "scores" in selector_named(name).needs:
            return values
        return {key: value for key, value in values.items() if key != "selector"} | {"method": name}

    @field_validator("method")
    @classmethod
    def _valid_method(cls, name: str) -> str:
        known = [LOCALIZER, *selector_names()]
        if name not in known:
            raise ValueError(f"is no method{did_you_mean(name, known)}; there are: {', '.join(known)}")
        if name != LOCALIZER and "scores" in _needs(name):
            raise ValueError(f"chooses by scores; expected selector = {name!r}")
        return name

    @field_validator("selector")
    @classmethod
    def _valid_selector(cls, name: str, info: ValidationInfo) -> str:
        if "scores" not in _needs(name):
            raise ValueError(f"uses no scores; expected method = {name!r}")
        if name != TOP_K and info.data.get("method", LOCALIZER) != LOCALIZER:
            raise ValueError(f"chooses by scores, but method = {info.data['method']!r} uses none; expected one of them")
        return name

    @field_validator("options")
    @classmethod
    def _complete(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """Return the options with the selector's defaults, so that identities do not depend on future defaults."""
        if not {"method", "seed", "selector"} <= info.data.keys():  # one of them is invalid
            return options
        is_method = info.data["method"] != LOCALIZER
        complete = _options(info.data["method" if is_method else "selector"], info.data["seed"], options).model_dump()
        if is_method and complete.get("seed") == info.data["seed"]:
            del complete["seed"]
        return complete

    @property
    def chosen_by(self) -> Selector:
        """The selector."""
        return selector_named(self.selector if self.method == LOCALIZER else self.method)

    def without_later(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of the identity, with the selector's version."""
        return super().without_later({**values, "selector_version": self.chosen_by.version})


def _needs(name: str) -> tuple[str, ...]:
    return selector_named(name).needs


def _options(selector: str, seed: int, options: dict[str, Any]) -> Options:
    chosen_by = selector_named(selector)
    return chosen_by.options_from(({"seed": seed} if "rng" in chosen_by.needs else {}) | options)


@stage(version=1, output=Keyframes, later_inputs=("vectors",))
def select_keyframes(
    cfg: SelectKeyframes,
    run: RunContext,
    questions: Questions,
    frames: Frames,
    scores: FrameScores | None,
    vectors: Features | None,
    *,
    out: Output,
) -> None:
    """Select k of each clip's sampled frames."""
    clips, videos = frames.clips_of(questions), {video.video_id: video for video in frames.videos()}
    order = {video_id: number for number, video_id in enumerate(videos)}
    choose = _ChooseFrames(cfg, questions, scores, vectors)
    rows = questions.clips()
    numbers = np.fromiter((order[row.video_id] for row in rows), np.int64, len(rows))
    in_order = np.argsort(numbers, kind="stable")

    def row(question: QuestionClip) -> tuple[Any, ...]:
        video, chosen = videos[question.video_id], NOTHING_CHOSEN
        if video.status == "ok":
            chosen = choose(question, clips[question.video_id, question.clip_id])
        reason = chosen.reason or video.reason
        if reason:
            out.dropped[reason.code] += 1
        ids = question.question_id, question.video_id, question.clip_id
        return *ids, "failed" if reason else "ok", reason, *chosen[1:]

    out.write_tuples("keyframes", (row(rows[number]) for number in in_order.tolist()))


class _Chosen(NamedTuple):
    """A question's k keyframes, in time order, each [k]: the columns of its row; or the reason for none."""

    reason: Reason
    positions: np.ndarray
    frame_indices: np.ndarray
    seconds: np.ndarray
    rows: np.ndarray
    scores: np.ndarray


NONE_INT, NONE_FLOAT = np.empty(0, np.int64), np.empty(0, np.float64)
NOTHING_CHOSEN = _Chosen(Reason(), NONE_INT, NONE_INT, NONE_FLOAT, NONE_INT, NONE_FLOAT)


class _ChooseFrames:
    """Selects the frames of each question."""

    def __init__(
        self, cfg: SelectKeyframes, questions: Questions, scores: FrameScores | None, vectors: Features | None
    ) -> None:
        self._k, self._select = cfg.k, cfg.chosen_by
        self._options = _options(self._select.name, cfg.seed, cfg.options)
        by_question = scores.by_question(*RANKED_BY[cfg.rank_by]) if scores is not None else None
        self._values: Mapping[str, np.ndarray] = by_question.ranking(cfg.rank_by) if by_question else {}
        self._failed = by_question.failed if by_question else {}
        self._without_scores = WITHOUT_FEATURES
        # Scores of another package: this package's scorers read features, or give a reason.
        if scores is not None and "features" not in scores.record.inputs:
            self._without_scores = Reason(f"unscored: {scores.record.stage} has no score of it")
        self._vectors = FrameVectors(vectors) if vectors is not None else None
        self._moments = questions.true_moments() if "moments" in self._select.needs else {}

    def __call__(self, question: QuestionClip, clip: dict[str, np.ndarray]) -> _Chosen:
        """Return the question's frames, or why it has none."""
        question_id = question.question_id
        values, moments, needs = self._values.get(question_id), self._moments.get(question_id), self._select.needs
        if "scores" in needs and values is None:
            return NOTHING_CHOSEN._replace(reason=self._failed.get(question_id, self._without_scores))
        if "moments" in needs and moments is None:
            return NOTHING_CHOSEN._replace(reason=NO_MOMENTS)
        vectors = self._vectors.of_rows(question.video_id, clip["row"]) if self._vectors is not None else None
        if "vectors" in needs and vectors is None:
            return NOTHING_CHOSEN._replace(reason=WITHOUT_FEATURES)
        known = {"scores": values, "seconds": clip["seconds"], "moments": moments, "vectors": vectors}
        inputs = {name: value for name, value in known.items() if name in needs}
        chosen = self._select(Candidates.of(len(clip["row"]), question_id, **inputs), self._k, self._options)
        if not len(chosen):
            return NOTHING_CHOSEN._replace(reason=self._empty_reason(len(clip["row"])))
        scores = NONE_FLOAT if values is None else values[chosen]
        return _Chosen(
            Reason(), chosen, clip["frame_index"][chosen], clip["seconds"][chosen], clip["row"][chosen], scores
        )

    def _empty_reason(self, n_frames: int) -> Reason:
        if "moments" in self._select.needs:
            return Reason(f"no_true_frame: none of the {n_frames} sampled frames lies in a true moment")
        return Reason(f"no_frame_chosen: {self._select.name} chose none of the {n_frames} sampled frames")


class FrameVectors:
    """Vectors of frames: embeddings, or features averaged over tokens; those of the last video stay in memory."""

    def __init__(self, pooled: Features) -> None:
        """Args: `pooled` has arrays [frames, D], [frames, tokens, D] or, of several Q-Formers, [frames, Q-Formers, tokens, D]."""
        self._reader = pooled.open()
        self._known = set(self._reader.videos)
        self._video_id = ""
        self._vectors = np.empty((0, 0), np.float32)

    def of_rows(self, video_id: str, rows: np.ndarray) -> np.ndarray | None:
        """Return the vectors of stored rows of a video, float32 [rows, D]; None if it has none."""
        if video_id not in self._known:
            return None
        if video_id != self._video_id:
            self._vectors, self._video_id = self._read(video_id), video_id
        return self._vectors[rows]

    def _read(self, video_id: str) -> np.ndarray:
        windows: list[np.ndarray] = []
        n_rows = self._reader.n_rows(video_id)
        for start in range(0, n_rows, WINDOW_FRAMES):
            window = self._reader.read(video_id, slice(start, start + WINDOW_FRAMES)).astype(np.float32)
            window = window[:, 0] if window.ndim == 4 else window  # of the first Q-Former
            windows.append(window if window.ndim == 2 else window.mean(axis=1))
        return np.concatenate(windows)
