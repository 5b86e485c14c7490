"""Frame scoring: the Localizer scores every frame for every question (paper section 3.2)."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from cache.errors import CorruptArtifactError, repair_hint
from cache.tables import Schema, n_rows, read_columns
from pipeline.batching import runs_of
from pipeline.datasets.question import Question
from pipeline.engine.joined import refuse_other_frames
from pipeline.engine.output import Shard, ShardedOutput
from pipeline.engine.stage import Artifact, Config, RunContext, stage
from pipeline.engine.typed_rows import ByKey, Mapped
from pipeline.inference.asked_videos import AskedVideo
from pipeline.inference.backbone import Backbone
from pipeline.inference.frame_by_frame import FrameByFrame, n_single_frame_prefix_tokens, plan_videos
from pipeline.inference.frame_scoring import score_shards
from pipeline.inference.frame_texts import texts_of_frames
from pipeline.inference.load_models import OnDemand, load_localizer
from pipeline.inference.long_images import FramesAtOnce, StretchByStretch
from pipeline.inference.not_finite import without_finite_scores
from pipeline.models.prompts import (
    CUSTOM,
    DEFAULT_INSTRUCTION,
    Instruction,
    ScoringPrompt,
    localizing_text,
    template_problem,
    template_text,
)
from pipeline.precision import PRECISION_DESCRIPTION, LanguagePrecision
from pipeline.reasons import Reason
from pipeline.selection.frame_scores import SCORE_COLUMNS, ScoresByQuestion
from pipeline.video.clip_frames import digest_of_frames, digests_of_clips
from stages.extract_features import Features
from stages.init_localizer import LocalizerWeights
from stages.list_questions import Questions
from stages.sample_frames import Frames

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.localizer import Localizer


TEXTS = np.dtypes.StringDType()  # takes a third of the memory of Python strings


class FrameScores(Artifact):
    """One row per (question, frame): the Localizer's logits at its first decoded token, or another scorer's number.

    Rows are in the order of videos, questions, positions. Questions of failed videos have no rows; Keyframes has the reason, as
    it has for questions with a score that is not finite, which is stored here unchanged (nan or infinite).
    """

    kind = "frame_scores"
    tables = {
        "frame_scores": Schema(
            1,
            *("question_id", "position"),
            question_id="string",
            video_id="string",
            position="int32",  # in the question's clip
            frame_index="int64",
            seconds="float64",
            logit_yes="float32 or not finite",  # raw, of the first word
            logit_no="float32 or not finite",  # likewise
            probability_yes="float32 or not finite",  # softmax over the whole vocabulary
            truncated="bool",  # the question's text exceeded the model's maximum length
        )
    }

    def by_question(self, *wanted: str) -> ScoresByQuestion:
        """Return the scores of all frames, only those columns that are `wanted` if any are named, and each question's place."""
        names, files = wanted or SCORE_COLUMNS, self.table_files("frame_scores")
        if (n := n_rows(files)) != (n_wanted := self.record.rows.get("frame_scores", 0)):
            raise CorruptArtifactError(f"{self.path}: {n} scores, expected {n_wanted}; {repair_hint(self.path)}")
        scores = {name: np.empty(n if name in names else 0, np.float32) for name in SCORE_COLUMNS}
        failed: dict[str, Reason] = {}
        parts: list[np.ndarray] = [np.empty(0, TEXTS)]
        starts, frames, end = array("q"), array("q"), 0
        for path in files:  # one after the other: all rows' ids take as much as all scores
            table = read_columns([path], self.tables["frame_scores"], ("question_id", "frame_index", *SCORE_COLUMNS))
            start, end = end, end + len(table["question_id"])
            for name in names:
                scores[name][start:end] = table[name]
            failed |= without_finite_scores(table)
            runs = runs_of(table["question_id"])
            parts.append(np.array(list(runs), TEXTS))
            starts.extend(start + run.start for run in runs.values())
            frames.extend(digest_of_frames(table["frame_index"][run]) for run in runs.values())
        starts.append(end)
        ids = np.concatenate(parts)
        self.refuse_cut(Mapped(lambda at: (ids[at], frames[at]), range(len(ids))))
        failed |= self.without_scores()
        finite = array("q", (number for number, id in enumerate(ids) if id not in failed))
        where = Mapped(lambda number: slice(starts[number], starts[number + 1]), finite)
        return ScoresByQuestion(**scores, where=ByKey(Mapped(ids.__getitem__, finite), where), failed=failed)

    def without_scores(self) -> Mapping[str, Reason]:
        """Return why questions have no rows, by their ids; empty if only questions of failed videos have none."""
        return {}

    def refuse_cut(self, of_questions: Collection[tuple[str, int]]) -> None:
        """Raise `CorruptArtifactError` if a question's frames are not those of its clip, if the store has its inputs."""
        ids = [self.record.inputs.get(name) or "" for name in ("questions", "frames", "features")]
        if all(map(self.store.exists, ids)):
            videos = Features(self.store, ids[2]).videos()
            ok = {video.video_id for video in videos if video.status == "ok"}
            frames, wanted = Frames(self.store, ids[1]), Questions(self.store, ids[0])
            refuse_other_frames(
                self, of_questions, frames, digests_of_clips(frames.clips_of(wanted), wanted.clips(), ok)
            )


class ScoreFrames(Config):
    """How the Localizer is asked."""

    later: ClassVar[Mapping[str, Any]] = {"template": "", "frames_at_once": 1}

    prompt: ScoringPrompt = "multiple_choice"
    template: str = Field(
        "",
        validate_default=True,
        description='user-defined text (custom), such as "Question: {question} Options: ({options} ) Is the answer to be seen?", '
        "to which the Localizer answers yes or no",
    )
    instruction: Instruction = DEFAULT_INSTRUCTION
    frames_at_once: FramesAtOnce = 1
    precision: LanguagePrecision = Field("float32", description=PRECISION_DESCRIPTION)

    @field_validator("template")
    @classmethod
    def _is_custom(cls, template: str, info: ValidationInfo) -> str:
        prompt = info.data.get("prompt")
        if prompt is None:  # is invalid
            return template
        if (prompt == CUSTOM) != bool(template):
            raise ValueError(f"prompt is {prompt!r}; expected 'custom' with a template, or another prompt without one")
        problem = template_problem(template) if template else ""
        if problem:
            raise ValueError(problem)
        return template

    def text(self, question: Question, subtitles: str) -> str:
        """Return the text that the Localizer reads for a question and the subtitles displayed at a frame."""
        if self.template:
            return template_text(self.template, question, subtitles)
        return localizing_text(self.prompt, question, self.instruction)


@stage(version=1, output=FrameScores, plan=plan_videos, gpu=True)
def score_frames(
    cfg: ScoreFrames,
    run: RunContext,
    questions: Questions,
    frames: Frames,
    features: Features,
    backbone: Backbone,
    localizer: LocalizerWeights,
    *,
    out: ShardedOutput,
) -> None:
    """Score every frame of every question's clip by the Localizer's yes that the frame answers the question."""
    videos, by_video = features.videos(), features.questions_by_video(questions)
    clips = frames.clips_of(questions)
    batches: FrameByFrame | StretchByStretch
    if cfg.frames_at_once == 1:
        batches = FrameByFrame(clips, features, run, "score_frames", localizer)
    else:
        batches = StretchByStretch(clips, features, run, "score_frames", cfg.frames_at_once)
    loaded = OnDemand(partial(load_localizer, run, backbone, localizer, cfg.precision))
    subtitles = questions.subtitles_for(cfg.template)

    def score(shard: Shard, ok: list[AskedVideo]) -> Mapping[str, np.ndarray]:
        shard_questions = [question for asked in ok for question in asked.questions]
        with shard.phase("score"):
            texts = texts_of_frames(cfg.text, shard_questions, clips, subtitles)
            scorer = _Scorer(loaded.model, texts.texts)
            scored = batches.ask(scorer, shard_questions, shard, texts.of_frames)
        scores = dict(zip(SCORE_COLUMNS, scored.values.T.astype(np.float32), strict=True))
        return {**scored.places(), **scores, "truncated": scorer.truncated[scored.text]}

    score_shards(out, videos, by_video, "the Localizer", score)


class _Scorer:
    """Asks the Localizer about (question, frame) pairs."""

    n_values = len(SCORE_COLUMNS)

    def __init__(self, localizer: Localizer, texts: Sequence[str]) -> None:
        self.model = localizer
        self._ids, truncated = localizer.language.verbalizer.tokenize(texts)
        self.lengths = [len(ids) for ids in self._ids]
        self.n_prefix_tokens = n_single_frame_prefix_tokens(localizer)
        self.truncated = np.array(truncated)

    def ask(self, visual: Tensor, numbers: Sequence[int]) -> Tensor:
        """Return the scores of R pairs, [R, 3] float32; `visual` are their frames, [R, Q, L]."""
        import torch

        return torch.stack(self.model.score(visual, [self._ids[number] for number in numbers]), dim=1).float()
