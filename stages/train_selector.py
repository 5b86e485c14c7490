"""Training of a frame selector on answers alone: ATP and differentiable top-k of the paper's table 6."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pipeline.engine.output import Output
from pipeline.engine.row_schema import schema_of
from pipeline.engine.stage import Artifact, RunContext, stage
from pipeline.inference.backbone import Backbone
from pipeline.inference.resident import resident
from pipeline.inference.visual_prompt_weights import TrainingStep, ValidationFigure
from pipeline.reasons import Reason
from pipeline.training.answerer_training import SeenFrames, answered_questions
from pipeline.training.prompt_training import split_by_video, train_prompt
from pipeline.training.selector_training import SelectorTask, SelectorTraining
from stages.extract_features import Features
from stages.init_answerer import AnswererWeights
from stages.list_questions import Questions
from stages.sample_frames import Frames

if TYPE_CHECKING:
    from pipeline.models.frame_selector import FrameSelector

SELECTOR_FILE = "selector.safetensors"


class SelectorWeights(Artifact):
    """A small transformer that scores the frames of a clip, as float32 safetensors, and its training curves."""

    kind = "selector_weights"
    tables = {"curves": schema_of(1, TrainingStep), "validation": schema_of(1, ValidationFigure)}
    measured = ("curves",)

    def load(self, run: RunContext) -> FrameSelector:
        """Return the selector on the run's device, in evaluation mode."""
        from pipeline.models.frame_selector import load_frame_selector

        def load() -> FrameSelector:
            return load_frame_selector(self.checked_file(SELECTOR_FILE), run.torch_device())

        return resident(self, "selector", "float32", run, load)


class TrainSelector(SelectorTraining):
    """How the selector is trained."""


@stage(version=1, output=SelectorWeights, resumes=True, gpu=True)
def train_selector(
    cfg: TrainSelector,
    run: RunContext,
    questions: Questions,
    frames: Frames,
    features: Features,
    backbone: Backbone,
    answerer: AnswererWeights,
    *,
    out: Output,
) -> None:
    """Train the selector to choose frames from which the frozen Answerer names the correct option."""
    clips = frames.clips_of(questions)
    failed = features.failures()
    seen = (
        SeenFrames(
            question,
            clips[question.video_id, question.clip_id]["row"].tolist() if question.video_id not in failed else (),
            failed.get(question.video_id, Reason()),
        )
        for question in questions.questions()
    )
    samples = answered_questions(cfg.prompt, len(backbone.verbalizer(run).letter_ids), seen, "frames", out)
    split = split_by_video(samples, cfg.held_out_percent, cfg.seed, out.stage.name)
    make_task = partial(SelectorTask, cfg, split, features, backbone, answerer)
    train_prompt(out, cfg, run, make_task, SELECTOR_FILE)
