"""The Answerer learns to answer from keyframes, the Localizer's or any others (paper section 3.3)."""

from __future__ import annotations

from collections import Counter
from functools import partial

from pipeline.engine.joined import typed_rows_of_all
from pipeline.engine.output import Output
from pipeline.engine.stage import RunContext, stage
from pipeline.inference.backbone import Backbone
from pipeline.models.prompts import answering_text
from pipeline.selection.keyframes import ChosenFrames
from pipeline.training.answerer_training import AnsweredQuestion, AnswererTask, AnswererTraining
from pipeline.training.prompt_training import refuse_no_samples, split_by_video, train_prompt
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
    """Train the Answerer to name the right option from the keyframes."""
    asked = {question.question_id: question for question in questions.questions()}
    n_letters = len(backbone.verbalizer(run).letter_ids)
    samples: list[AnsweredQuestion] = []
    skipped: Counter[str] = Counter()
    failed = {video.video_id: video.reason for video in features.videos() if video.reason}
    for row in typed_rows_of_all(keyframes, "keyframes", questions, ChosenFrames):
        question = asked[row.question_id]
        options, right = question.options, question.answer_index
        if reason := row.reason or failed.get(row.video_id):
            skipped[reason.code] += 1
        elif not options or len(options) > n_letters:
            skipped["too_many_options" if options else "no_options"] += 1
        elif right is None or not row.rows:
            skipped["no_answer" if right is None else "no_keyframes"] += 1
        else:
            text = answering_text(cfg.prompt, question)
            samples.append(AnsweredQuestion(row.question_id, row.video_id, text, tuple(row.rows), len(options), right))
    refuse_no_samples(samples, skipped, out.stage.name, "questions with a known answer and keyframes", out)
    split = split_by_video(samples, cfg.held_out_percent, cfg.seed, out.stage.name)
    train_prompt(out, cfg, run, partial(AnswererTask, cfg, split, features, backbone, answerer))
