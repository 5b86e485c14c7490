"""The untrained Shapes backbone: a BLIP-2 Flan-T5 of 0.5 million parameters, initialised to learn from scratch in minutes.

With purely random weights the accuracy of option letters stays at chance for a long time. Two initialisations help: pieces that
share words have similar embeddings, and attention prefers similar tokens ("mimetic" initialisation: keys equal queries).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Blip2Config, Blip2ForConditionalGeneration

from pipeline.models.verbalizer import Verbalizer
from pipeline.shapes.tokenizer import words_of

WIDTH, HEADS, QUERIES = 64, 4, 4
IMAGE_SIZE, PATCH_SIZE = 32, 8


def new_model(verbalizer: Verbalizer, seed: int) -> Blip2ForConditionalGeneration:
    """Return the untrained model; equal seeds give equal models."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Blip2ForConditionalGeneration(_config(verbalizer.vocabulary_size))
        with torch.no_grad():
            _initialise_text(model.language_model, verbalizer)
            _initialise_vision(model.vision_model)
            model.query_tokens.normal_()  # transformers' zeros would keep all queries identical
    return model


def _config(n_tokens: int) -> Blip2Config:
    sizes = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_attention_heads": HEADS}
    vision = {
        **sizes,
        "num_hidden_layers": 3,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
        "initializer_range": 0.1,
    }
    qformer = {
        **sizes,
        "num_hidden_layers": 2,
        "encoder_hidden_size": WIDTH,
        "cross_attention_frequency": 1,
        "initializer_range": 0.08,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    text = {
        "model_type": "t5",
        "d_model": WIDTH,
        "d_kv": WIDTH // HEADS,
        "num_heads": HEADS,
        "d_ff": 2 * WIDTH,
        "num_layers": 3,
        "num_decoder_layers": 1,
        "vocab_size": n_tokens,
        "feed_forward_proj": "gated-gelu",
        "decoder_start_token_id": 0,
        "tie_word_embeddings": False,
        "dropout_rate": 0.0,
    }
    config: Any = Blip2Config(vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=QUERIES)
    config.text_config.dense_act_fn = "gelu"  # as in the chain's models; transformers' default is gelu_new
    return config


def _initialise_text(model: Any, verbalizer: Verbalizer) -> None:
    model.lm_head.weight = nn.Parameter(torch.empty_like(model.shared.weight))  # untie it
    meaning: dict[str, Tensor] = {}
    for number, piece in enumerate(verbalizer.pieces()):
        parts = words_of(piece)
        distinct = torch.randn(WIDTH)
        for part in parts:
            meaning.setdefault(part, torch.randn(WIDTH))
        # "Option A: red" is the sum of "A", "red" and a distinct vector.
        vector = torch.stack([*(meaning[part] for part in parts), 0.3 * distinct if parts else distinct]).sum(dim=0)
        model.shared.weight[number] = vector
        model.lm_head.weight[number] = 0.05 * vector
    for stack in (model.encoder, model.decoder):
        stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight.normal_(std=2)
    # At distance 0: keep tokens from attending to themselves, the most similar key.
    model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight[0] -= 8
    for block in model.encoder.block:
        attention = block.layer[0].SelfAttention
        attention.q.weight.normal_(std=0.6 * WIDTH**-0.5)
        attention.k.weight.copy_(attention.q.weight)


def _initialise_vision(vision: Any) -> None:
    """Initialise patches to attend to their neighbours: sinusoidal position embeddings, and keys that equal queries."""
    side = IMAGE_SIZE // PATCH_SIZE
    frequency = math.pi * torch.logspace(-0.3, 0.3, WIDTH // 4)
    place = torch.linspace(-1, 1, side)
    waves = torch.cat([(place[:, None] * frequency).sin(), (place[:, None] * frequency).cos()], dim=1)
    down, across = waves[:, None].expand(side, side, -1), waves[None].expand(side, side, -1)
    embeddings = vision.embeddings
    embeddings.position_embedding.zero_()
    embeddings.position_embedding[0, 1:] = 0.7 * torch.cat([down, across], dim=-1).flatten(0, 1)
    embeddings.class_embedding.normal_(std=0.3)
    embeddings.patch_embedding.weight.normal_(std=embeddings.patch_embedding.weight[0].numel() ** -0.5)
    for layer in vision.encoder.layers:
        weight = layer.self_attn.qkv.weight  # rows: queries, keys, values
        weight[:WIDTH].normal_(std=WIDTH**-0.5)
        weight[WIDTH : 2 * WIDTH] = weight[:WIDTH]
