"""Training a Localizer to predict yes or no for single frames; shared by pre-training and self-refinement."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from pipeline.datasets.question import Question
from pipeline.engine.output import Output
from pipeline.engine.pooled import PooledArtifact
from pipeline.engine.stage import RunContext
from pipeline.inference.backbone import Backbone
from pipeline.inference.long_images import FramesAtOnce, long_images, stretches_of
from pipeline.inference.not_finite import not_finite_figure
from pipeline.inference.visual_prompt_weights import VisualPromptWeights
from pipeline.inference.visual_windows import VideoFeatures
from pipeline.models.prompts import DEFAULT_INSTRUCTION, Instruction, localizing_text
from pipeline.models.transfer import to_device
from pipeline.training.prompt_training import (
    Data,
    FrameReader,
    HeldOutSplit,
    MicroBatchRow,
    micro_batches,
    refuse_no_samples,
    split_by_video,
    train_prompt,
    trained_parts,
    visual_tokens,
)
from pipeline.training.task import MicroBatch, TrainingConfig
from pipeline.video.frames import Clips, random_indices

if TYPE_CHECKING:
    from torch import Tensor


class LocalizerTraining(TrainingConfig):
    """How a Localizer is trained; the defaults of each stage are the paper's."""

    later: ClassVar[Mapping[str, Any]] = {"frames_at_once": 1}

    frames_per_question: int = Field(
        4,
        ge=1,
        description="frames of a question in each epoch, one drawn at random from each of equal parts of its clip; with "
        "frames_at_once, stretches instead of frames",
    )
    frames_at_once: FramesAtOnce = 1
    instruction: Instruction = DEFAULT_INSTRUCTION


@dataclass(frozen=True)
class LabelledClip:
    """A question about the T frames of a clip, and a label for each frame."""

    question_id: str
    video_id: str
    text: str
    rows: np.ndarray  # [T] int, of the video's stored frames
    labels: np.ndarray  # [T] bool


def labelled_clips(
    cfg: LocalizerTraining,
    prompt: str,
    labelled: Iterable[tuple[Question, np.ndarray | None]],
    no_label: str,
    clips: Clips,
    features: PooledArtifact,
    out: Output,
) -> list[LabelledClip]:
    """Return the questions usable for training; count the others by reason.

    Args:
        labelled: questions, each with labels [T] for the frames of its clip, or None if unknown.
        no_label: reason code of questions without labels.

    Raises:
        SevilaError: no question is usable.
    """
    failed = {video.video_id: video.reason for video in features.typed_rows("videos", VideoFeatures) if video.reason}
    samples: list[LabelledClip] = []
    skipped: Counter[str] = Counter()
    for question, labels in labelled:
        if question.video_id in failed:
            skipped[failed[question.video_id].code] += 1
        elif labels is None:
            skipped[no_label] += 1
        else:
            text = localizing_text(prompt, question, cfg.instruction)
            rows = clips[question.video_id, question.clip_id]["row"]
            assert len(rows) == len(labels), question.question_id
            samples.append(LabelledClip(question.question_id, question.video_id, text, rows, labels))
    refuse_no_samples(samples, skipped, out.stage.name, "questions with labelled frames of a readable video", out)
    return samples


def train_localizer(
    cfg: LocalizerTraining,
    run: RunContext,
    samples: list[LabelledClip],
    features: PooledArtifact,
    backbone: Backbone,
    localizer: VisualPromptWeights,
    out: Output,
) -> None:
    """Train on questions with a label for each frame, and write weights and curves."""
    split = split_by_video(samples, cfg.held_out_percent, cfg.seed, out.stage.name)
    train_prompt(out, cfg, run, partial(LocalizerTask, cfg, split, features, backbone, localizer))


class LocalizerTask:
    """Predict yes or no for frames (a `Task` of the training loop); a row is one (question, frame)."""

    judged_by = "balanced_accuracy"
    n_counts = 5

    def __init__(
        self,
        cfg: LocalizerTraining,
        split: HeldOutSplit,
        features: PooledArtifact,
        backbone: Backbone,
        weights: VisualPromptWeights,
        run: RunContext,
    ) -> None:
        from pipeline.models.localizer import Localizer

        self._localizer = Localizer(*trained_parts(cfg, run, backbone, weights))
        self.module, self.language = self._localizer.prompt, self._localizer.language
        self.n_samples = len(split.train)
        self._clips = [*split.train, *split.held_out]
        self._cfg = cfg
        verbalizer = self._localizer.language.verbalizer
        self._ids = verbalizer.tokenize([clip.text for clip in self._clips]).token_ids
        self._lengths = [len(ids) for ids in self._ids]
        self._n_targets = [len(ids) for ids in self._localizer.target_ids([False, True])]
        self.load = FrameReader(features, lambda number: self._clips[number].video_id).load

    def cut(self, samples: Sequence[int], epoch: int) -> list[MicroBatch]:
        """Cut a batch into micro-batches with similar lengths of text, and draw each question's frames for this epoch."""
        return self._cut(samples, epoch)

    def validation(self) -> list[MicroBatch]:
        """Return the held-out questions with frames drawn once, the same in every epoch."""
        return self._cut(range(self.n_samples, len(self._clips)))

    def loss(self, data: Data) -> Tensor:
        """Return the summed cross-entropy of the targets yes and no, a float32 scalar."""
        visual = self._visual(data)
        labels = [row.target == 1 for row in data.rows]
        return self._localizer.loss(visual, [self._ids[row.sample] for row in data.rows], labels)

    def judge(self, data: Data) -> Tensor:
        """Return int64 [5]: rows with finite logits labelled yes, labelled no, correct yes, correct no; and rows without."""
        import torch

        visual = self._visual(data)
        scores = self._localizer.score(visual, [self._ids[row.sample] for row in data.rows])
        says_yes = scores.logit_yes > scores.logit_no
        is_yes = torch.tensor([row.target == 1 for row in data.rows], device=says_yes.device)
        right = says_yes == is_yes
        is_finite = scores.logit_yes.isfinite() & scores.logit_no.isfinite()
        yes, no = is_yes & is_finite, ~is_yes & is_finite
        return torch.stack([yes.sum(), no.sum(), (right & yes).sum(), (right & no).sum(), (~is_finite).sum()])

    def figures(self, counts: Sequence[float]) -> dict[str, float]:
        """Return the accuracy, and the balanced accuracy: the mean of the accuracies on yes and on no frames."""
        n_yes, n_no, right_yes, right_no, n_not_finite = counts
        shares = [right / n for right, n in ((right_yes, n_yes), (right_no, n_no)) if n]
        n_rows = n_yes + n_no or math.nan
        return {
            "accuracy": (right_yes + right_no) / n_rows,
            "balanced_accuracy": sum(shares) / len(shares) if shares else math.nan,
            "yes_share": n_yes / n_rows,
            **not_finite_figure(n_not_finite),
        }

    def names(self, samples: Sequence[int]) -> list[str]:
        """Return the questions' ids."""
        return [self._clips[number].question_id for number in samples]

    def _draw(self, number: int, *epoch: int) -> list[MicroBatchRow]:
        clip = self._clips[number]
        # Seeded by the question, so that a draw is independent of other questions and of their order.
        rng = np.random.default_rng([self._cfg.seed, *epoch, *clip.question_id.encode()])
        stretches = stretches_of(len(clip.rows), self._cfg.frames_at_once)
        drawn = stretches[random_indices(len(stretches), self._cfg.frames_per_question, 0, len(stretches), rng)]
        # A stretch is labelled yes if any of its frames is.
        return [MicroBatchRow(number, tuple(clip.rows[at].tolist()), int(clip.labels[at].any())) for at in drawn]

    def _visual(self, data: Data) -> Tensor:
        """Return the visual tokens [R, Q, L] of each row's frame, or of its stretch as one image, with gradients."""
        if self._cfg.frames_at_once == 1:
            return visual_tokens(self._localizer, data)[:, 0]
        device = str(self._localizer.language.device)
        return self._localizer.prompt(to_device(long_images(data.features, data.where), device))

    def _cut(self, samples: Sequence[int], *epoch: int) -> list[MicroBatch]:
        cut = []
        for chosen in micro_batches(samples, self._lengths, self._cfg.micro_batch_size):
            rows = [row for number in chosen for row in self._draw(number, *epoch)]
            cut.append(
                MicroBatch(rows, sum(self._n_targets[row.target] for row in rows), sum(len(row.stored) for row in rows))
            )
        return cut
