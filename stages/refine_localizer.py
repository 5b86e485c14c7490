"""The reverse chain: the Localizer learns from the Answerer which frames are enough for the right answer (paper section 3.3)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import Field

from pipeline.datasets.question import Question
from pipeline.engine.output import Output
from pipeline.engine.stage import RunContext, stage
from pipeline.inference.backbone import Backbone
from pipeline.models.prompts import LocalizingPrompt
from pipeline.training.localizer_training import LocalizerTraining, labelled_clips, train_localizer
from stages.extract_features import Features
from stages.init_localizer import LocalizerWeights
from stages.label_frames import PseudoLabels
from stages.list_questions import Questions
from stages.sample_frames import Frames


class RefineLocalizer(LocalizerTraining):
    """How the Localizer is refined; defaults: paper table 11, 4 random frames a question."""

    prompt: LocalizingPrompt = "multiple_choice"
    warmup_steps: int = Field(500, ge=0, description="optimizer steps of linear warm-up; then cosine down to 0")


@stage(version=1, output=LocalizerWeights, resumes=True, gpu=True)
def refine_localizer(
    cfg: RefineLocalizer,
    run: RunContext,
    questions: Questions,
    frames: Frames,
    features: Features,
    backbone: Backbone,
    localizer: LocalizerWeights,
    labels: PseudoLabels,
    *,
    out: Output,
) -> None:
    """Train the Localizer to say yes to the frames from each of which alone the Answerer gives the right answer."""
    clips = frames.clips_of(questions)
    of_question = labels.by_question(questions)

    def labelled() -> Iterator[tuple[Question, np.ndarray | None]]:
        for question in questions.questions():
            yield question, of_question.get(question.question_id)

    samples = labelled_clips(cfg, cfg.prompt, labelled(), "no_pseudo_labels", clips, features, out)
    train_localizer(cfg, run, samples, features, backbone, localizer, out)
