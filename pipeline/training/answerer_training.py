"""Training an Answerer to name the right option from keyframes."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from pipeline.datasets.question import Question
from pipeline.engine.output import Output
from pipeline.engine.pooled import PooledArtifact
from pipeline.engine.stage import RunContext
from pipeline.inference.backbone import Backbone
from pipeline.inference.not_finite import not_finite_figure
from pipeline.inference.visual_prompt_weights import VisualPromptWeights
from pipeline.models.prompts import AnsweringPrompt, answering_text, frame_prefixes
from pipeline.reasons import Reason
from pipeline.training.prompt_training import (
    Data,
    FrameReader,
    HeldOutSplit,
    MicroBatchRow,
    micro_batches,
    refuse_no_samples,
    trained_parts,
    visual_tokens,
)
from pipeline.training.task import MicroBatch, TrainingConfig

if TYPE_CHECKING:
    from torch import Tensor


class AnswererTraining(TrainingConfig):
    """How an Answerer is trained."""

    micro_batch_size: int = Field(
        8,
        ge=1,
        description="questions in one forward pass: bounds memory; processes share the micro-batches of a batch. Part of the "
        "identity, because each micro-batch draws its own dropout",
    )
    method: Literal["concatenate", "vote"] = Field(
        "concatenate", description="learn to answer from all keyframes together, or from each alone"
    )
    prompt: AnsweringPrompt = "multiple_choice"


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question with its keyframes and the index of its correct option."""

    question_id: str
    video_id: str
    text: str
    rows: tuple[int, ...]  # of the video's stored frames, in time order
    n_options: int
    right: int


class SeenFrames(NamedTuple):
    """A question, the stored rows of its video to show, and the reason if they cannot be shown."""

    question: Question
    rows: Sequence[int]
    reason: Reason


def answered_questions(
    prompt: AnsweringPrompt, n_letters: int, seen: Iterable[SeenFrames], frames: str, out: Output
) -> list[AnsweredQuestion]:
    """Return the questions usable for training; count the others by reason.

    Args:
        n_letters: maximum number of options of a question.
        frames: name of the frames in messages; `no_{frames}` is the reason code of questions without any.

    Raises:
        SevilaError: no question is usable.
    """
    samples: list[AnsweredQuestion] = []
    skipped: Counter[str] = Counter()
    for question, rows, reason in seen:
        options, right = question.options, question.answer_index
        if reason:
            skipped[reason.code] += 1
        elif not options or len(options) > n_letters:
            skipped["too_many_options" if options else "no_options"] += 1
        elif right is None or not len(rows):
            skipped["no_answer" if right is None else f"no_{frames}"] += 1
        else:
            text = answering_text(prompt, question)
            samples.append(
                AnsweredQuestion(question.question_id, question.video_id, text, tuple(rows), len(options), right)
            )
    refuse_no_samples(samples, skipped, out.stage.name, f"questions with a known answer and {frames}", out)
    return samples


class AnswererTask:
    """Predict the correct option from keyframes (a `Task` of the training loop); a row is a question, or one of its frames."""

    judged_by = "accuracy"
    n_counts = 3

    def __init__(
        self,
        cfg: TrainingConfig,
        split: HeldOutSplit,
        features: PooledArtifact,
        backbone: Backbone,
        weights: VisualPromptWeights,
        run: RunContext,
        *,
        alone: bool = False,
    ) -> None:
        """Args: `alone`: make each frame of a question a row of its own."""
        from pipeline.models.answerer import Answerer

        self.answerer = Answerer(*trained_parts(cfg, run, backbone, weights))
        self.module = self.answerer.prompt
        self.n_samples = len(split.train)
        self._questions = [*split.train, *split.held_out]
        self._alone = alone
        verbalizer = self.answerer.language.verbalizer
        self._ids = verbalizer.tokenize([question.text for question in self._questions]).token_ids
        self._lengths = [len(ids) for ids in self._ids]
        n_options = max(question.n_options for question in self._questions)
        self._n_targets = [len(ids) for ids in self.answerer.target_ids(range(n_options))]
        self._micro_batch_size = cfg.micro_batch_size
        self.load = FrameReader(features, lambda number: self._questions[number].video_id).load

    def cut(self, samples: Sequence[int], epoch: int) -> list[MicroBatch]:
        """Cut a batch into micro-batches with equal numbers of frames and similar lengths of text."""
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

    def loss(self, data: Data) -> Tensor:
        """Return the summed cross-entropy of the target texts "Option X", a float32 scalar."""
        return self.loss_of(data, visual_tokens(self.answerer, data))

    def loss_of(self, data: Data, visual: Tensor) -> Tensor:
        """Return the loss for visual tokens [R, K, Q, L]."""
        right = [row.target for row in data.rows]
        return self.answerer.loss(visual, self.token_ids(data), right, frame_prefixes(visual.shape[1]))

    def judge(self, data: Data) -> Tensor:
        """Return int64 [3]: number of rows with finite logits, of correct ones among them, and of rows without."""
        return self.judged(data, visual_tokens(self.answerer, data))

    def judged(self, data: Data, visual: Tensor) -> Tensor:
        """Return the counts of `judge` for visual tokens [R, K, Q, L]."""
        import torch

        n_options = [self._questions[row.sample].n_options for row in data.rows]
        answers = self.answerer.answer(visual, self.token_ids(data), n_options, frame_prefixes(visual.shape[1]))
        logits = answers.option_logits
        is_finite = ~(logits.isnan() | logits.isposinf()).any(dim=1)  # -inf: no such option
        right = answers.prediction == torch.tensor([row.target for row in data.rows], device=logits.device)
        return torch.stack([is_finite.sum(), (right & is_finite).sum(), (~is_finite).sum()])

    def figures(self, counts: Sequence[float]) -> dict[str, float]:
        """Return the accuracy (of single frames when voting) over rows with finite logits, and the count of other rows."""
        n_rows, n_right, n_not_finite = counts
        return {"accuracy": n_right / n_rows if n_rows else math.nan, **not_finite_figure(n_not_finite)}

    def token_ids(self, data: Data) -> list[Sequence[int]]:
        """Return the token ids of each row's text."""
        return [self._ids[row.sample] for row in data.rows]

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
