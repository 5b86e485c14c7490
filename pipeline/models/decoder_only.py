"""A decoder-only language model as a `Language`: what it says goes on with what it read. Shapes as in language.py."""

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

    All prompts end in one token, which `tokenize` leaves out: what is said begins with it, as T5's decoder does with its
    start token, so that rows of any length are followed by what is said in the same columns. Padding stands in between, is
    seen by nobody, and counts for no position.
    """

    def __init__(self, model: Any, verbalizer: Verbalizer) -> None:
        super().__init__(model, verbalizer)
        assert isinstance(verbalizer, DecoderVerbalizer)
        self.stack = model.get_decoder()
        self.reading_blocks = self.stack.layers
        self.start_id = verbalizer.start_id
        self._most_tokens = getattr(model.config, "max_position_embeddings", None)

    def encode(self, inputs: LanguageInput) -> Tensor:
        """Return the embeddings [R, S, D] as they are: nothing is computed of the prompt alone.

        Keys and values of each block, kept for several texts after one prompt, would be many times as large.
        """
        return inputs.embeddings

    def decode(self, hidden: Tensor, mask: Tensor, decoder_ids: Tensor) -> Tensor:
        """Return logits [R, M, V] float32 of what follows each of `decoder_ids` [R, M], which begin with `start_id`.

        Raises:
            CheckpointError: prompt and answer are longer than the model has positions for.
        """
        n_tokens = hidden.shape[1] + decoder_ids.shape[1]
        if self._most_tokens is not None and n_tokens > self._most_tokens:
            raise CheckpointError(
                f"frames, question and answer are {n_tokens} tokens, and the language model reads {self._most_tokens} at most; "
                "choose fewer keyframes (select_keyframes.k) or shorter answers (generate_answers.max_tokens)"
            )
        with self._as_loaded():
            whole = torch.cat([hidden, self._embed(decoder_ids)], dim=1)
            mask = torch.cat([mask, mask.new_ones(decoder_ids.shape)], dim=1)
            states = self._run(whole, mask)[:, -decoder_ids.shape[1] :]
            logits: Tensor = self.model.lm_head(states.float())
            return logits

    def states(self, inputs: LanguageInput) -> Tensor:
        """Return the last hidden states of what is read, [R, S, D]."""
        with self._as_loaded():
            return self._run(inputs.embeddings, inputs.mask)

    def saving_memory(self) -> Language:
        """Return the same model with its blocks recomputed."""
        saving = copy.copy(self)
        saving.stack = recomputing(self.stack, "layers")
        return saving

    def _run(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        n_tokens = mask.shape[1]
        before = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=mask.device).tril()
        # With four axes: to see whether a mask of two axes hides anything, transformers waits for the device.
        seen = before & mask[:, None, None].bool()
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        states: Tensor = self.stack(
            inputs_embeds=embeddings, attention_mask=seen, position_ids=positions, use_cache=False
        ).last_hidden_state
        return states
