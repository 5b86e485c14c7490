"""Fine-tuning of the Answerer on keyframes, the Localizer's or any others (paper section 3.3)."""

from __future__ import annotations

from functools import partial

from pipeline.engine.output import Output
from pipeline.engine.stage import RunContext, stage
from pipeline.inference.backbone import Backbone
from pipeline.training.answerer_training import AnswererTask, AnswererTraining, SeenFrames, answered_questions
from pipeline.training.prompt_training import split_by_video, train_prompt
from stages.extract_features import Features
from stages.init_answerer import AnswererWeights
from stages.list_questions import Questions
from stages.select_keyframes import Keyframes


class FinetuneAnswerer(AnswererTraining):
    """How the Answerer is fine-tuned; defaults: paper table 11 for NExT-QA, 4 GPUs of 8 questions, accumulated twice."""


@stage(version=1, output=AnswererWeights, resumes=True, gpu=True)
def finetune_answerer(
    cfg: FinetuneAnswerer,
    run: RunContext,
    questions: Questions,
    keyframes: Keyframes,
    features: Features,
    backbone: Backbone,
    answerer: AnswererWeights,
    *,
    out: Output,
) -> None:
    """Train the Answerer to name the correct option from the keyframes."""
    pairs = keyframes.asked(questions, features)
    seen = (SeenFrames(question, row.rows, row.reason) for question, row in pairs)
    samples = answered_questions(cfg.prompt, len(backbone.verbalizer(run).letter_ids), seen, "keyframes", out)
    split = split_by_video(samples, cfg.held_out_percent, cfg.seed, out.stage.name)
    train_prompt(
        out, cfg, run, partial(AnswererTask, cfg, split, features, backbone, answerer, alone=cfg.method == "vote")
    )
