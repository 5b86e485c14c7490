"""The Answerer (paper section 3.2): chooses an option from several frames.

Shapes: F frames, R rows (one question each), K frames a row, P patches + 1 class token, D vision width, Q query tokens,
L language width, O maximum number of options of a row.
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
    """Outputs of each row at the letter: T5's second decoded token, after "Option"; a decoder-only model's first.

    Attributes:
        option_logits: [R, O] float32, raw logits of the letters, with T5 after the row's greedy first token; -inf where a
            row has fewer options.
        prediction: [R] int64, their argmax: the index of the chosen option.
        first_token_id: [R] int64, the greedy first token, with T5 normally the word "Option".
        option_logits_forced: [R, O] float32, with T5 the letters' logits after the word "Option" in every case, for
            pseudo-labels (paper section 3.3; the official code teacher-forces the target text).
    """

    option_logits: Tensor
    prediction: Tensor
    first_token_id: Tensor
    option_logits_forced: Tensor


class Answerer:
    """A VisualPrompt before the frozen language model, which answers with an option's letter; only `prompt` is trained."""

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
        only_forced: bool = False,
    ) -> AnswererOutput:
        """Return the answers to R questions about K frames each.

        T5's two decoder steps run in one pass with "Option" as the forced first token: the decoder is causal, so the first
        step's output is unaffected. Only rows with another greedy first token are decoded again, after that token.

        Args:
            visual: [R, K, Q, L], frames in time order.
            token_ids: R answering prompts as ids.
            n_options: R numbers of options; letters beyond them are excluded.
            frame_prefixes: K texts: `numbered_frame_prefixes(K)` for several frames, or `single_frame_prefixes()` for one,
                as in the official code's one-keyframe and frame-by-frame modes.
            only_forced: letters are read after the forced word in all rows; no row is decoded again.

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
        for forced_id in () if only_forced else before_letter:
            others = (first != forced_id).nonzero().squeeze(1)
            if len(others):
                greedy = torch.stack([torch.full_like(first[others], language.start_id), first[others]], dim=1)
                chosen[others] = language.decode(hidden[others], inputs.mask[others], greedy)[:, 1][:, letters]
        absent = torch.arange(len(letters), device=chosen.device) >= language.on_device(n_options)[:, None]
        chosen, forced = chosen.masked_fill(absent, -torch.inf), forced.masked_fill(absent, -torch.inf)
        return AnswererOutput(chosen, chosen.argmax(dim=-1), first, forced)

    def target_ids(self, right: Sequence[int]) -> list[list[int]]:
        """Return each row's target text as ids: "Option X" or "X" with the letter of the right option."""
        return [self._targets[option] for option in right]

    def loss(
        self,
        visual: Tensor,
        token_ids: Sequence[Sequence[int]],
        right: Sequence[int],
        frame_prefixes: Sequence[str],
    ) -> Tensor:
        """Return the summed cross-entropy of R rows' target texts with the end token (paper section 3.3); differentiable.

        Args:
            visual: [R, K, Q, L], from `prompt`, as `visual` has no gradient.
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
        """Return the log-probability of each option's text as the answer, [R, O] float32; -inf where a row has fewer options.

        It is summed over the option's tokens with `</s>`. Each row is encoded once; options are decoded in batches across rows.

        Args:
            visual, token_ids, frame_prefixes: as in `answer`.
            option_token_ids: R lists of options as ids with `</s>`, without a limit on their number.
            budget_tokens: maximum number of encoder and decoder tokens in a batch of the decoder, with padding.
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
        letter_ids = self.language.verbalizer.letter_ids
        if n_options > len(letter_ids):
            raise CheckpointError(
                f"a question has {n_options} options, but the tokenizer has single tokens for {len(letter_ids)} letters "
                "only; drop the question or give it fewer options"
            )
        return list(letter_ids[:n_options])
