"""Self-refinement of the Localizer on the Answerer's pseudo-labels (paper section 3.3, the reverse chain)."""

from __future__ import annotations

from pydantic import Field

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
    """How the Localizer is refined; defaults: paper table 11, 4 random frames per question."""

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
    """Train the Localizer to answer yes for frames from which alone the Answerer answers correctly."""
    clips, frame_labels = frames.clips_of(questions), labels.by_question(questions, frames)
    labelled = ((question, frame_labels.get(question.question_id)) for question in questions.questions())
    samples = labelled_clips(cfg, cfg.prompt, labelled, "no_pseudo_labels", clips, features, out)
    train_localizer(cfg, run, samples, features, backbone, localizer, out)
