"""The Answerer (paper section 3.2): which option do these frames support?

Shapes: F frames, R rows (one question each), K frames a row, P patches + 1 class token, D vision width, Q query tokens,
L language width, O most options of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cache.errors import CheckpointError
from pipeline.batching import token_batches
from pipeline.memory import Halving
from pipeline.models.language import Language
from pipeline.models.visual_prompt import VisualPrompt


class AnswererOutput(NamedTuple):
    """Readings of each row at the letter: T5's second decoded token, after "Option"; a decoder-only model's first.

    Attributes:
        option_logits: [R, O] float32, raw logits of the letters, of T5 after the row's own greedy first token; -inf where a
            row has fewer options.
        prediction: [R] int64, their argmax: the index of the chosen option.
        first_token_id: [R] int64, the greedy first token, of T5 normally the word "Option".
        option_logits_forced: [R, O] float32, of T5 the letters' logits after the word "Option" whether or not it came first:
            what pseudo-labels are read from (paper section 3.3; the official code teacher-forces the target text).
    """

    option_logits: Tensor
    prediction: Tensor
    first_token_id: Tensor
    option_logits_forced: Tensor


class Answerer:
    """A VisualPrompt that asks the frozen language model for an option's letter. `prompt` is all there is to train."""

    def __init__(self, prompt: VisualPrompt, language: Language) -> None:
        self.prompt = prompt
        self.language = language
        self._halving = Halving("texts of options")
        n_letters = len(language.verbalizer.letter_ids)
        self._targets = [language.verbalizer.answer_ids(index) for index in range(n_letters)]

    @torch.no_grad()
    def visual(self, features: Tensor) -> Tensor:
        """Return visual tokens [F, Q, L] of `features` [F, P, D]."""
        return self.prompt(features)

    @torch.no_grad()
    def answer(
        self,
        visual: Tensor,
        token_ids: Sequence[Sequence[int]],
        n_options: Sequence[int],
        frame_prefixes: Sequence[str],
    ) -> AnswererOutput:
        """Return the answers to R questions about K frames each; a batch holds rows of one K.

        T5's two decoder steps in one pass: the decoder is causal, so that its first step is the same whatever token is put
        second. "Option" is; only the rows that would have begun otherwise are decoded again, after their own token.

        Args:
            visual: [R, K, Q, L], frames in time order.
            token_ids: R answering prompts as ids.
            n_options: R numbers of options; letters beyond them cannot win.
            frame_prefixes: K texts: `numbered_frame_prefixes(K)` for frames that are read together, or
                `single_frame_prefixes()` for one frame, as the official code writes it in its one-keyframe and its
                frame-by-frame modes.

        Raises:
            CheckpointError: a row has more options than the tokenizer has single-token letters.
        """
        language, before_letter = self.language, self.language.verbalizer.before_letter
        letters = language.on_device(self._letters(max(n_options)))
        inputs = language.assemble(frame_prefixes, visual, token_ids)
        hidden = language.encode(inputs)
        logits = language.decode(hidden, inputs.mask, language.decoder_ids(len(visual), *before_letter))
        first = logits[:, 0].argmax(dim=-1)
        forced = logits[:, -1][:, letters]
        chosen = forced.clone()
        for wanted in before_letter:
            others = (first != wanted).nonzero().squeeze(1)
            if len(others):
                begun = torch.stack([torch.full_like(first[others], language.start_id), first[others]], dim=1)
                chosen[others] = language.decode(hidden[others], inputs.mask[others], begun)[:, 1][:, letters]
        absent = torch.arange(len(letters), device=chosen.device) >= language.on_device(n_options)[:, None]
        chosen, forced = chosen.masked_fill(absent, -torch.inf), forced.masked_fill(absent, -torch.inf)
        return AnswererOutput(chosen, chosen.argmax(dim=-1), first, forced)

    def target_ids(self, right: Sequence[int]) -> list[list[int]]:
        """Return what is to be said about each row, as ids: "Option X" or "X", the letter of its right option."""
        return [self._targets[option] for option in right]

    def loss(
        self,
        visual: Tensor,
        token_ids: Sequence[Sequence[int]],
        right: Sequence[int],
        frame_prefixes: Sequence[str],
    ) -> Tensor:
        """Return the summed cross-entropy of what R rows are to say, the end included (paper section 3.3); differentiable.

        Args:
            visual: [R, K, Q, L], from `prompt` rather than `visual`, which gives no gradient.
            token_ids, frame_prefixes: as in `answer`.
            right: R indices of the right options.
        """
        inputs = self.language.assemble(frame_prefixes, visual, token_ids)
        hidden = self.language.encode(inputs)
        return -self.language.log_likelihood(hidden, inputs.mask, self.target_ids(right)).sum()

    @torch.no_grad()
    def option_text_scores(
        self,
        visual: Tensor,
        token_ids: Sequence[Sequence[int]],
        option_token_ids: Sequence[Sequence[Sequence[int]]],
        frame_prefixes: Sequence[str],
        budget_tokens: int,
    ) -> Tensor:
        """Return how likely each option's text is as the answer, [R, O] float32; -inf where a row has fewer options.

        The sum of the log-probabilities of the option's tokens, `</s>` included. Each row is encoded once; its options are
        decoded in batches over rows and options.

        Args:
            visual, token_ids, frame_prefixes: as in `answer`.
            option_token_ids: R lists of options, each as ids including `</s>`; of any number, letters are not needed.
            budget_tokens: encoder and decoder tokens that a batch of the decoder may hold, padding included.
        """
        inputs = self.language.assemble(frame_prefixes, visual, token_ids)
        hidden = self.language.encode(inputs)
        pairs = [(row, option) for row, options in enumerate(option_token_ids) for option in range(len(options))]
        lengths = [len(option_token_ids[row][option]) for row, option in pairs]
        scores = hidden.new_full((len(visual), max(map(len, option_token_ids))), -torch.inf, dtype=torch.float32)

        def score(items: np.ndarray) -> None:
            rows, options = zip(*(pairs[item] for item in items), strict=True)
            targets = [option_token_ids[row][option] for row, option in zip(rows, options, strict=True)]
            scores[rows, options] = self.language.log_likelihood(hidden[list(rows)], inputs.mask[list(rows)], targets)

        for batch in token_batches(lengths, hidden.shape[1], budget_tokens):
            self._halving(score, batch)
        return scores

    def _letters(self, n_options: int) -> list[int]:
        known = self.language.verbalizer.letter_ids
        if n_options > len(known):
            raise CheckpointError(
                f"a question has {n_options} options, but the tokenizer has single tokens for {len(known)} letters "
                "only; drop the question or give it fewer options"
            )
        return list(known[:n_options])
