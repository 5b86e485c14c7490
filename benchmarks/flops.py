"""Floating-point operations of the model's parts, from its sizes: a multiplication and an addition count as two.

Only matrix products count, as usual for model FLOP utilisation; norms, softmax and activations do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.models.config import ModelConfig


def vit(config: ModelConfig) -> float:
    """Return the operations of the ViT on one frame."""
    vision: Any = config.vision
    tokens, width = config.feature_shape
    block = 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * vision.intermediate_size
    return 2.0 * (vision.num_hidden_layers * block + (tokens - 1) * width * 3 * vision.patch_size**2)


def qformer(config: ModelConfig) -> float:
    """Return the operations of Q-Former and projection on one frame's features."""
    tokens, vision_width = config.feature_shape
    sizes: Any = config.qformer
    queries = config.num_query_tokens
    width = sizes.hidden_size
    block = 4 * queries * width**2 + 2 * queries**2 * width + 2 * queries * width * sizes.intermediate_size
    cross = 2 * queries * width**2 + 2 * tokens * vision_width * width + 2 * queries * tokens * width
    n_cross = -(-sizes.num_hidden_layers // sizes.cross_attention_frequency)
    return 2.0 * (sizes.num_hidden_layers * block + n_cross * cross + queries * width * config.text.d_model)


def t5_encoder(config: ModelConfig, tokens: int) -> float:
    """Return the operations of Flan-T5's encoder on one row of `tokens` tokens."""
    text: Any = config.text
    inner = text.num_heads * text.d_kv
    block = 4 * tokens * text.d_model * inner + 2 * tokens**2 * inner + 3 * tokens * text.d_model * text.d_ff
    return 2.0 * text.num_layers * block


def t5_decoder(config: ModelConfig, tokens: int, steps: int) -> float:
    """Return the operations of `steps` steps of Flan-T5's decoder and `lm_head` that attend to a row of `tokens` tokens."""
    text: Any = config.text
    inner = text.num_heads * text.d_kv
    own = 4 * steps * text.d_model * inner + 2 * steps**2 * inner + 3 * steps * text.d_model * text.d_ff
    cross = 2 * steps * text.d_model * inner + 2 * tokens * text.d_model * inner + 2 * steps * tokens * inner
    return 2.0 * (text.num_decoder_layers * (own + cross) + steps * text.d_model * text.vocab_size)


def answer(config: ModelConfig, tokens: int, steps: int) -> float:
    """Return the operations of one row of Flan-T5: encoder and decoder."""
    return t5_encoder(config, tokens) + t5_decoder(config, tokens, steps)


def mean_answer(config: ModelConfig, lengths: Sequence[int], n_before: int, steps: int) -> float:
    """Return the mean operations of rows with texts of these lengths in tokens, after `n_before` other tokens."""
    return sum(answer(config, n_before + length, steps) for length in lengths) / len(lengths)


def t5_folded(config: ModelConfig, tokens: int, steps: int) -> float:
    """Return the operations of the decoder with folded cross-attention (pipeline/models/t5_language.py)."""
    text: Any = config.text
    inner = text.num_heads * text.d_kv
    unfolded = 2 * tokens * text.d_model * inner + 2 * steps * tokens * inner  # keys and values, and attention
    folded = 2 * steps * text.d_model * inner + 2 * steps * tokens * text.num_heads * text.d_model
    return t5_decoder(config, tokens, steps) + 2.0 * text.num_decoder_layers * (folded - unfolded)
