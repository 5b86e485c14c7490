"""The Answerer learns to answer from keyframes, the Localizer's or any others (paper section 3.3)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pipeline.engine.joined import typed_rows_of_all
from pipeline.engine.output import Output
from pipeline.engine.stage import RunContext, stage
from pipeline.inference.backbone import Backbone
from pipeline.inference.load_models import load_answerer
from pipeline.inference.not_finite import not_finite_figure
from pipeline.models.prompts import answering_text, numbered_frame_prefixes, single_frame_prefixes
from pipeline.selection.keyframes import ChosenFrames
from pipeline.training.prompt_training import (
    Data,
    FrameReader,
    HeldOutSplit,
    MicroBatchRow,
    micro_batches,
    refuse_no_samples,
    split_by_video,
    train_prompt,
    visual_tokens,
)
from pipeline.training.task import MicroBatch, TrainingConfig
from stages.extract_features import Features
from stages.init_answerer import AnswererWeights
from stages.list_questions import Questions
from stages.select_keyframes import Keyframes

if TYPE_CHECKING:
    from torch import Tensor


class FinetuneAnswerer(TrainingConfig):
    """How the Answerer is fine-tuned; defaults: paper table 11 for NExT-QA, 4 GPUs of 8 questions, accumulated twice."""

    micro_batch_size: int = Field(
        8,
        ge=1,
        description="questions computed at once: bounds memory; processes share the micro-batches of a batch. Part of the "
        "identity, because each draws its own dropout",
    )
    method: Literal["concatenate", "vote"] = Field(
        "concatenate", description="learn to answer from all keyframes together, or from each alone"
    )
    prompt: Literal["multiple_choice", "next_event"] = Field("multiple_choice", description="kind of question")


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question with its keyframes and its right option."""

    question_id: str
    video_id: str
    text: str
    rows: tuple[int, ...]  # of the video's stored frames, in time order
    n_options: int
    right: int


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


class AnswererTask:
    """The right option from keyframes (a `Task` of the training loop); a row is a question, or one of its frames."""

    judged_by = "accuracy"
    n_counts = 3

    def __init__(
        self,
        cfg: FinetuneAnswerer,
        split: HeldOutSplit,
        features: Features,
        backbone: Backbone,
        weights: AnswererWeights,
        run: RunContext,
    ) -> None:
        self._answerer = load_answerer(run, backbone, weights, cfg.precision, cfg.gradient_checkpointing)
        self.module = self._answerer.prompt
        self.n_samples = len(split.train)
        self._questions = [*split.train, *split.held_out]
        self._alone = cfg.method == "vote"
        words = self._answerer.language.verbalizer
        self._ids = words.tokenize([question.text for question in self._questions]).token_ids
        self._lengths = [len(ids) for ids in self._ids]
        n_options = max(question.n_options for question in self._questions)
        self._n_targets = [len(ids) for ids in self._answerer.target_ids(range(n_options))]
        self._micro_batch_size = cfg.micro_batch_size
        self._reader = FrameReader(features, lambda number: self._questions[number].video_id)

    def cut(self, samples: Sequence[int], epoch: int) -> list[MicroBatch]:
        """Cut a batch into micro-batches of one number of frames, by length of text."""
        groups: dict[int, list[int]] = defaultdict(list)
        for number in samples:
            groups[1 if self._alone else len(self._questions[number].rows)].append(number)
        return [
            self._micro_batch(chosen)
            for _, group in sorted(groups.items())
            for chosen in micro_batches(group, self._lengths, self._micro_batch_size)
        ]

    def validation(self) -> list[MicroBatch]:
        """Return all held-out questions."""
        return self.cut(range(self.n_samples, len(self._questions)), 0)

    def load(self, micro_batch: MicroBatch) -> Data:
        """Return the micro-batch with its features."""
        return self._reader.load(micro_batch)

    def loss(self, data: Data) -> Tensor:
        """Return the summed cross-entropy of the micro-batch's "Option X"."""
        visual = visual_tokens(self._answerer, data)
        token_ids = [self._ids[row.sample] for row in data.rows]
        right = [row.target for row in data.rows]
        return self._answerer.loss(visual, token_ids, right, _prefixes(visual.shape[1]))

    def judge(self, data: Data) -> Tensor:
        """Return the number of rows with finite logits, how many of them were answered right, and the number of other rows."""
        import torch

        visual = visual_tokens(self._answerer, data)
        token_ids = [self._ids[row.sample] for row in data.rows]
        n_options = [self._questions[row.sample].n_options for row in data.rows]
        answers = self._answerer.answer(visual, token_ids, n_options, _prefixes(visual.shape[1]))
        logits = answers.option_logits
        is_finite = ~(logits.isnan() | logits.isposinf()).any(dim=1)  # -inf: no such option
        right = answers.prediction == torch.tensor([row.target for row in data.rows], device=logits.device)
        return torch.stack([is_finite.sum(), (right & is_finite).sum(), (~is_finite).sum()])

    def figures(self, counts: Sequence[float]) -> dict[str, float]:
        """Return the share of right answers; when voting, of single frames. Rows without finite logits are counted apart."""
        n_rows, n_right, n_not_finite = counts
        return {"accuracy": n_right / n_rows if n_rows else math.nan, **not_finite_figure(n_not_finite)}

    def names(self, samples: Sequence[int]) -> list[str]:
        """Return the questions' ids."""
        return [self._questions[number].question_id for number in samples]

    def _micro_batch(self, chosen: Sequence[int]) -> MicroBatch:
        rows = []
        for number in chosen:
            question = self._questions[number]
            for stored in [(row,) for row in question.rows] if self._alone else [question.rows]:
                rows.append(MicroBatchRow(number, stored, question.right))
        return MicroBatch(rows, sum(self._n_targets[row.target] for row in rows), sum(len(row.stored) for row in rows))


def _prefixes(n_frames: int) -> list[str]:
    # The official code numbers frames only when there are several: one keyframe is read as when voting.
    return single_frame_prefixes() if n_frames == 1 else numbered_frame_prefixes(n_frames)
