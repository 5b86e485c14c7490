"""Pre-training of the Localizer on annotated moments (paper section 3.3, on QVHighlights)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import Field

from pipeline.datasets.question import Question
from pipeline.engine.output import Output
from pipeline.engine.stage import RunContext, stage
from pipeline.inference.backbone import Backbone
from pipeline.metrics.localization_metrics import inside
from pipeline.models.prompts import LocalizingPrompt
from pipeline.training.localizer_training import LocalizerTraining, labelled_clips, train_localizer
from stages.extract_features import Features
from stages.init_localizer import LocalizerWeights
from stages.list_questions import Questions
from stages.sample_frames import Frames


class PretrainLocalizer(LocalizerTraining):
    """How the Localizer is pre-trained; defaults: paper table 11, 4 GPUs of 16 videos and 4 frames each."""

    prompt: LocalizingPrompt = "moment"
    epochs: int = Field(80, ge=1, description="passes over the training questions")


@stage(version=1, output=LocalizerWeights, resumes=True, gpu=True)
def pretrain_localizer(
    cfg: PretrainLocalizer,
    run: RunContext,
    questions: Questions,
    frames: Frames,
    features: Features,
    backbone: Backbone,
    localizer: LocalizerWeights,
    *,
    out: Output,
) -> None:
    """Train the Localizer to answer yes for frames inside a question's true moments, and no for others."""
    true, clips = questions.true_moments(), frames.clips_of(questions)

    def labelled() -> Iterator[tuple[Question, np.ndarray | None]]:
        for question in questions.questions():
            moments, clip = true.get(question.question_id), clips.get((question.video_id, question.clip_id))
            if moments is None or clip is None:
                yield question, None
            else:
                yield question, np.asarray(inside(clip["seconds"], moments).any(axis=1))

    samples = labelled_clips(cfg, cfg.prompt, labelled(), "no_moments", clips, features, out)
    train_localizer(cfg, run, samples, features, backbone, localizer, out)
