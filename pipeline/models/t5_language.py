"""Flan-T5 as a `Language`. Shapes as in language.py."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention, T5LayerNorm

from cache.errors import CheckpointError
from pipeline.models.language import Language, LanguageInput, recomputing
from pipeline.models.verbalizer import Verbalizer

# Of a row's tokens on a GPU: the fused attention requires it of a bias's width; the fallback is far slower.
MULTIPLE = 8
FOLDED_STEPS = 2  # with more decoder steps, folding takes more memory than the keys and values that it saves


class T5Language(Language):
    """A frozen T5.

    Encoder, decoder and `lm_head` are called separately: depending on a configuration flag `T5ForConditionalGeneration.forward`
    scales the decoder's output or ties `lm_head` to the embeddings, and Flan-T5 needs neither.
    """

    def __init__(self, model: T5ForConditionalGeneration, verbalizer: Verbalizer) -> None:
        super().__init__(model, verbalizer)
        if self.device.type != "cpu":
            _fuse_norms(self.model)
            self._multiple = MULTIPLE
        self.encoder, self.decoder = self.model.encoder, self.model.decoder
        self.reading_blocks = self.model.encoder.block
        start_id = model.config.decoder_start_token_id
        self.start_id = verbalizer.pad_id if start_id is None else start_id

    def encode(self, inputs: LanguageInput) -> Tensor:
        """Return the encoder's hidden states [R, S, D].

        As transformers does, except that the attention's bias, which is the same in all blocks, is combined with the mask once,
        [R, heads, S, S].
        """
        n_tokens = inputs.mask.shape[1]
        with self._as_loaded():
            attention = self.model.encoder.block[0].layer[0].SelfAttention
            bias = attention.compute_bias(n_tokens, n_tokens, device=self.device)
            bias = bias.masked_fill(inputs.mask[:, None, None] == 0, torch.finfo(bias.dtype).min).contiguous()
            hidden = inputs.embeddings
            for block in self.encoder.block:
                hidden = block(hidden, position_bias=bias)[0]
            states: Tensor = self.encoder.final_layer_norm(hidden)
            return states

    def decode(self, hidden: Tensor, mask: Tensor, decoder_ids: Tensor) -> Tensor:
        """Return the next tokens' logits [R, M, V] float32 after each of `decoder_ids` [R, M], which start with `start_id`."""
        with self._as_loaded():
            if decoder_ids.shape[1] <= FOLDED_STEPS and not torch.is_grad_enabled():
                states = self._decode_folded(hidden, mask, decoder_ids)
            else:
                # Four axes avoid a synchronisation: transformers checks whether a two-axis mask hides anything.
                attended = mask[:, None, None].bool()
                states = self.decoder(
                    input_ids=decoder_ids,
                    encoder_hidden_states=hidden,
                    encoder_attention_mask=attended,
                    use_cache=False,
                ).last_hidden_state
            return functional.linear(states.float(), self.model.lm_head.weight)

    def _decode_folded(self, hidden: Tensor, mask: Tensor, decoder_ids: Tensor) -> Tensor:
        """Return the decoder's hidden states [R, M, D] without computing cross-attention keys and values of the S tokens.

        q (K h) = (K' q) h: the weights of the keys are applied to each query, and those of the values to the weighted mean of
        hidden states, instead of both to every token. For one query and 64 tokens this is a 32nd of the arithmetic.
        """
        padding = (mask == 0)[:, None]  # [R, 1, S]
        n_steps = decoder_ids.shape[1]
        bias = self.model.decoder.block[0].layer[0].SelfAttention.compute_bias(n_steps, n_steps, device=self.device)
        later = torch.ones(n_steps, n_steps, dtype=torch.bool, device=self.device).triu(1)
        bias = bias.masked_fill(later, torch.finfo(bias.dtype).min)
        states = self._embed(decoder_ids)
        for block in self.decoder.block:
            cross = block.layer[1]
            states = block.layer[0](states, position_bias=bias)[0]
            states = states + _attend_folded(cross.EncDecAttention, cross.layer_norm(states), hidden, padding)
            states = block.layer[2](states)
        final: Tensor = self.decoder.final_layer_norm(states)
        return final

    def states(self, inputs: LanguageInput) -> Tensor:
        """Return the encoder's hidden states [R, S, D]."""
        return self.encode(inputs)

    def saving_memory(self) -> Language:
        """Return a view of the model that recomputes the blocks of both stacks in the backward pass."""
        saving = copy.copy(self)
        saving.viewed = self
        saving.encoder = recomputing(self.model.encoder, "block")
        saving.decoder = recomputing(self.model.decoder, "block")
        return saving

    def _check_tokenizer(self) -> None:
        super()._check_tokenizer()
        verbalizer = self.verbalizer
        for name, token_id in (("pad_token_id", verbalizer.pad_id), ("eos_token_id", verbalizer.end_id)):
            model_id = getattr(self.model.config, name)
            if token_id != model_id:
                raise CheckpointError(
                    f"{verbalizer.path}: its {name} is {token_id}, but the language model's is {model_id}; "
                    "use the tokenizer.json that belongs to the weights"
                )


def _attend_folded(attention: T5Attention, queries: Tensor, hidden: Tensor, padding: Tensor) -> Tensor:
    """Return the output [R, M, D] of a T5Attention without positions for `queries` [R, M, D] over `hidden` [R, S, D]."""
    (rows, steps, width), heads = queries.shape, attention.n_heads
    to_keys, to_values = (layer.weight.view(heads, -1, width) for layer in (attention.k, attention.v))  # [H, d, D]
    by_head = attention.q(queries).view(rows * steps, heads, -1).transpose(0, 1)  # [H, R * M, d]
    folded = (by_head @ to_keys).transpose(0, 1).reshape(rows, steps * heads, width)
    scores = (folded @ hidden.transpose(1, 2)).masked_fill(padding, torch.finfo(hidden.dtype).min)  # [R, M * H, S]
    means = scores.softmax(dim=-1, dtype=torch.float32).to(hidden.dtype) @ hidden  # [R, M * H, D]
    by_head = means.view(rows * steps, heads, width).transpose(0, 1) @ to_values.transpose(1, 2)  # [H, R * M, d]
    output: Tensor = attention.o(by_head.transpose(0, 1).reshape(rows, steps, -1))
    return output


def _fuse_norms(model: T5ForConditionalGeneration) -> None:
    """Replace each T5LayerNorm (five kernels) by torch's RMSNorm (one kernel); in float32 they differ in the last bits."""
    for module in list(model.modules()):
        for name, norm in module.named_children():
            if isinstance(norm, T5LayerNorm):
                fused = nn.RMSNorm(norm.weight.shape, norm.variance_epsilon, device="meta")
                fused.weight = norm.weight
                setattr(module, name, fused)
