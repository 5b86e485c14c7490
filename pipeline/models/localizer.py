"""The Localizer (paper section 3.2): is the answer to be seen in this one frame?

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
    """Readings of each row at the first decoded token; all [R] float32.

    Attributes:
        logit_yes, logit_no: raw `lm_head` logits. The official code ranks frames by `logit_yes`.
        probability_yes: softmax over the whole vocabulary, as the paper writes the score. Yes against no alone is
            `sigmoid(logit_yes - logit_no)`. The three rank frames differently.
    """

    logit_yes: Tensor
    logit_no: Tensor
    probability_yes: Tensor


class Localizer:
    """A VisualPrompt that asks the frozen language model for yes or no. `prompt` is all there is to train."""

    def __init__(self, prompt: VisualPrompt, language: Language) -> None:
        self.prompt = prompt
        self.language = language
        self._yes, self._no = language.verbalizer.tokenize_targets(LOCALIZE_TARGETS)

    @torch.no_grad()
    def visual(self, features: Tensor) -> Tensor:
        """Return visual tokens [F, Q, L] of `features` [F, P, D]: once per frame, whatever is asked about it."""
        return self.prompt(features)

    @torch.no_grad()
    def score(self, visual: Tensor, token_ids: Sequence[Sequence[int]]) -> LocalizerScores:
        """Return the scores of R (question, frame) rows: `["Frame: "][visual tokens][text]`, one decoder step.

        Args:
            visual: [R, Q, L], the frame of each row.
            token_ids: R localizing prompts as ids.
        """
        language, words = self.language, self.language.verbalizer
        inputs = language.assemble(single_frame_prefixes(), visual.unsqueeze(1), token_ids)
        logits = language.decode(language.encode(inputs), inputs.mask, language.decoder_ids(len(visual)))[
            :, 0
        ]  # [R, V]
        return LocalizerScores(logits[:, words.yes_id], logits[:, words.no_id], logits.softmax(dim=-1)[:, words.yes_id])

    def target_ids(self, labels: Sequence[bool]) -> list[list[int]]:
        """Return what is to be said about each row, as ids: "yes" where the frame holds the answer, else "no"."""
        return [self._yes if label else self._no for label in labels]

    def loss(self, visual: Tensor, token_ids: Sequence[Sequence[int]], labels: Sequence[bool]) -> Tensor:
        """Return the summed cross-entropy of R rows' yes or no, `</s>` included (paper section 3.3); differentiable.

        Args:
            visual: [R, Q, L], from `prompt` rather than `visual`, which gives no gradient.
            token_ids: R localizing prompts as ids.
            labels: R, whether the frame is one to keep.
        """
        inputs = self.language.assemble(single_frame_prefixes(), visual.unsqueeze(1), token_ids)
        hidden = self.language.encode(inputs)
        return -self.language.log_likelihood(hidden, inputs.mask, self.target_ids(labels)).sum()
