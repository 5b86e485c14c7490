"""Decoder-only language models as a `Language`: the answer continues the prompt. Shapes as in language.py."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from cache.errors import CheckpointError
from pipeline.models.decoder_verbalizer import DecoderVerbalizer
from pipeline.models.language import Language, LanguageInput, recomputing
from pipeline.models.verbalizer import Verbalizer


class DecoderOnlyLanguage(Language):
    """A frozen decoder of transformers, whose `get_decoder()` has its blocks in `layers`.

    All prompts end in the same token, which `tokenize` leaves out: it is the answer's start token, as in T5's decoder, so that
    the answers of all rows are in the same columns. The padding between prompt and answer is masked and counts for no position.
    """

    def __init__(self, model: Any, verbalizer: Verbalizer) -> None:
        super().__init__(model, verbalizer)
        assert isinstance(verbalizer, DecoderVerbalizer)
        self.stack = model.get_decoder()
        self.reading_blocks = self.stack.layers
        self.start_id = verbalizer.start_id
        self._most_tokens = getattr(model.config, "max_position_embeddings", None)

    def encode(self, inputs: LanguageInput) -> Tensor:
        """Return the embeddings [R, S, D] unchanged.

        Caching each block's keys and values for several answers to a prompt would take many times this memory.
        """
        return inputs.embeddings

    def decode(self, hidden: Tensor, mask: Tensor, decoder_ids: Tensor) -> Tensor:
        """Return the next tokens' logits [R, M, V] float32 after each of `decoder_ids` [R, M], which start with `start_id`.

        Raises:
            CheckpointError: prompt and answer are longer than the model's maximum.
        """
        n_tokens = hidden.shape[1] + decoder_ids.shape[1]
        if self._most_tokens is not None and n_tokens > self._most_tokens:
            raise CheckpointError(
                f"frames, question and answer have {n_tokens} tokens, the language model's maximum is {self._most_tokens}; "
                "choose fewer keyframes (select_keyframes.k) or shorter answers (generate_answers.max_tokens)"
            )
        with self._as_loaded():
            embeddings = torch.cat([hidden, self._embed(decoder_ids)], dim=1)
            mask = torch.cat([mask, mask.new_ones(decoder_ids.shape)], dim=1)
            states = self._run(embeddings, mask)[:, -decoder_ids.shape[1] :]
            logits: Tensor = self.model.lm_head(states.float())
            return logits

    def states(self, inputs: LanguageInput) -> Tensor:
        """Return the last hidden states of the input, [R, S, D]."""
        with self._as_loaded():
            return self._run(inputs.embeddings, inputs.mask)

    def saving_memory(self) -> Language:
        """Return a view of the model that recomputes its blocks in the backward pass."""
        saving = copy.copy(self)
        saving.viewed = self
        saving.stack = recomputing(self.stack, "layers")
        return saving

    def _run(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        n_tokens = mask.shape[1]
        causal = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=mask.device).tril()
        # Four axes avoid a synchronisation: transformers checks whether a two-axis mask hides anything.
        attended = causal & mask[:, None, None].bool()
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        states: Tensor = self.stack(
            inputs_embeds=embeddings, attention_mask=attended, position_ids=positions, use_cache=False
        ).last_hidden_state
        return states
