"""The Localizer (paper section 3.2): scores whether a frame shows the answer to a question.

Shapes: F frames, R rows = (question, frame) pairs, P patches + 1 class token, D vision width, Q query tokens,
L language width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.models.language import Language
from pipeline.models.prompts import LOCALIZE_TARGETS, single_frame_prefixes
from pipeline.models.visual_prompt import VisualPrompt


class LocalizerScores(NamedTuple):
    """Scores of each row at the first decoded token; all [R] float32.

    Attributes:
        logit_yes, logit_no: raw `lm_head` logits. The official code ranks frames by `logit_yes`.
        probability_yes: softmax over the whole vocabulary, the paper's score. The probability of yes against no is
            `sigmoid(logit_yes - logit_no)`. The three rank frames differently.
    """

    logit_yes: Tensor
    logit_no: Tensor
    probability_yes: Tensor


class Localizer:
    """A VisualPrompt before the frozen language model, which answers yes or no; only `prompt` is trained."""

    def __init__(self, prompt: VisualPrompt, language: Language) -> None:
        self.prompt = prompt
        self.language = language
        self._yes, self._no = language.verbalizer.tokenize_targets(LOCALIZE_TARGETS)

    @torch.no_grad()
    def visual(self, features: Tensor) -> Tensor:
        """Return visual tokens [F, Q, L] of `features` [F, P, D], which do not depend on the question."""
        return self.prompt(features)

    @torch.no_grad()
    def score(self, visual: Tensor, token_ids: Sequence[Sequence[int]]) -> LocalizerScores:
        """Return the scores of R (question, frame) rows: `["Frame: "][visual tokens][text]`, one decoder step.

        Args:
            visual: [R, Q, L], the frame of each row.
            token_ids: R localizing prompts as ids.
        """
        language, yes, no = self.language, self.language.verbalizer.yes_id, self.language.verbalizer.no_id
        inputs = language.assemble(single_frame_prefixes(), visual.unsqueeze(1), token_ids)
        decoded = language.decode(language.encode(inputs), inputs.mask, language.decoder_ids(len(visual)))
        logits = decoded[:, 0]  # [R, V]
        return LocalizerScores(logits[:, yes], logits[:, no], logits.softmax(dim=-1)[:, yes])

    def target_ids(self, labels: Sequence[bool]) -> list[list[int]]:
        """Return each row's target text as ids: "yes" if the frame shows the answer, else "no"."""
        return [self._yes if label else self._no for label in labels]

    def loss(self, visual: Tensor, token_ids: Sequence[Sequence[int]], labels: Sequence[bool]) -> Tensor:
        """Return the summed cross-entropy of R rows' yes or no with `</s>` (paper section 3.3); differentiable.

        Args:
            visual: [R, Q, L], from `prompt`, as `visual` has no gradient.
            token_ids: R localizing prompts as ids.
            labels: R, whether the frame is a keyframe.
        """
        inputs = self.language.assemble(single_frame_prefixes(), visual.unsqueeze(1), token_ids)
        hidden = self.language.encode(inputs)
        return -self.language.log_likelihood(hidden, inputs.mask, self.target_ids(labels)).sum()
