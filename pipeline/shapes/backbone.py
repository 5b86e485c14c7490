"""The Shapes backbone: a BLIP-2 Flan-T5 of half a million parameters, trained from scratch in three phases.

1. read: T5 on text alone, on written frames with questions about them (`reading.py`).
2. see: the ViT on single images, by heads for what they show.
3. tell: the Q-Former on the frozen ViT's features, so that its outputs are the words of the image for the frozen T5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Blip2Config, Blip2ForConditionalGeneration

from pipeline.models.language import Language
from pipeline.models.verbalizer import Verbalizer
from pipeline.prompts import numbered_frame_prefixes, single_frame_prefixes
from pipeline.shapes.reading import Reader, Sample
from pipeline.shapes.drawing import COLOURS, SHAPES
from pipeline.shapes.tokenizer import ACROSS, DOWN, EMPTY, words_of

WRONG_WORDS = 0.05  # share of words in a written frame that say something else
WIDTH, IMAGE_SIZE, QUERIES = 64, 32, 4


def new_model(n_tokens: int) -> Blip2ForConditionalGeneration:
    """Return the untrained model, initialised for training from scratch by the current random state."""
    sizes = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_attention_heads": 4}
    vision = {**sizes, "num_hidden_layers": 3, "image_size": IMAGE_SIZE, "patch_size": 8, "initializer_range": 0.1}
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
        "d_kv": 16,
        "num_heads": 4,
        "d_ff": 2 * WIDTH,
        "num_layers": 3,
        "num_decoder_layers": 1,
        "vocab_size": n_tokens,
        "feed_forward_proj": "gated-gelu",
        "decoder_start_token_id": 0,
        "tie_word_embeddings": False,
        "dropout_rate": 0.0,
    }
    config = Blip2Config(vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=QUERIES)
    config.text_config.dense_act_fn = "gelu"  # as the chain runs it; transformers makes it gelu_new
    model = Blip2ForConditionalGeneration(config)
    model.language_model.lm_head.weight = nn.Parameter(torch.empty(n_tokens, WIDTH))  # transformers tied it
    return model


def train_reading(language: Language, seed: int, steps: int, batch: int, log: object = print) -> None:
    """Phase 1: T5 learns to answer and to judge from written frames."""
    model, words = language.model, language.verbalizer
    model.requires_grad_(True)
    _initialise_text(language, seed)
    reader = Reader(words, seed)
    bias = [p for n, p in model.named_parameters() if "relative_attention_bias" in n]
    rest = [p for n, p in model.named_parameters() if "relative_attention_bias" not in n]
    optimizer = torch.optim.AdamW([{"params": rest}, {"params": bias, "lr": 2e-2}], lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    generator = torch.Generator().manual_seed(seed)
    import time

    start = time.process_time()
    for step in range(steps):
        n_frames = (4, 4, 3, 4, 2)[step % 5]
        single = step < steps * 0.25
        groups = [
            [reader.question(1, as_text=i % 8 == 0) for i in range(batch // 2)] + [reader.judgement() for _ in range(batch // 2)],
        ] if single else [
            [reader.question(1, as_text=i % 8 == 0) for i in range(batch // 4)] + [reader.judgement() for _ in range(batch // 4)],
            [reader.question(n_frames, as_text=i % 8 == 0) for i in range(batch // 2)],
        ]
        for samples in groups:
            loss, _ = _text_loss(language, samples, generator)
            loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 99:
            print(step + 1, round(time.process_time() - start, 1), round(loss.item(), 3), round(norm.item(), 2), reading_accuracy(language, seed + 1, 100), flush=True)


@cache
def _word_ids(words: Verbalizer) -> dict[str, int]:
    return {word: words.word_id(word) for word in (*COLOURS, *SHAPES, *ACROSS, *DOWN, EMPTY)}


def _text_loss(language: Language, samples: Sequence[Sample], generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Return the loss and, per sample, whether the telling token is right."""
    words = language.verbalizer
    table = language.model.shared
    known = _word_ids(words)
    ids = torch.tensor([[[known[word] for word in frame] for frame in sample.frames] for sample in samples])
    visual = table(ids)  # [R, K, 4, D]
    if generator is not None:
        # Seen frames are never as clear as written ones: blurred words, each sample by its own amount, and wrong ones.
        wrong = torch.rand(ids.shape, generator=generator) < WRONG_WORDS
        swapped = ids[torch.randperm(len(ids), generator=generator)]
        visual = torch.where(wrong[..., None], table(swapped), visual)
        amount = torch.rand(len(ids), 1, 1, 1, generator=generator)
        visual = visual + amount * torch.randn(visual.shape, generator=generator)
    n_frames = len(samples[0].frames)
    prefixes = single_frame_prefixes() if n_frames == 1 else numbered_frame_prefixes(n_frames)
    inputs = language.assemble(prefixes, visual, [sample.text for sample in samples])
    hidden = language.encode(inputs)
    width = max(len(sample.target) for sample in samples)
    target = torch.tensor([[*sample.target, *[-100] * (width - len(sample.target))] for sample in samples])
    start = torch.full((len(samples), 1), language.start_id)
    logits = language.decode(hidden, inputs.mask, torch.cat([start, target[:, :-1].clamp(min=0)], dim=1))
    each = functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none", ignore_index=-100)
    weight = torch.full(target.shape, 0.1)
    rows, telling = torch.arange(len(samples)), torch.tensor([sample.telling for sample in samples])
    weight[rows, telling] = 1.0
    loss = (each.view_as(weight) * weight).sum() / len(samples)
    return loss, logits[rows, telling].argmax(-1) == target[rows, telling]


@torch.no_grad()
def reading_accuracy(language: Language, seed: int, n: int) -> dict[str, float]:
    """Return accuracies on held-out texts."""
    reader = Reader(language.verbalizer, seed)
    found = {}
    for name, draw in {
        "one": lambda: reader.question(1),
        "four": lambda: reader.question(4),
        "text": lambda: reader.question(4, as_text=True),
        "judge": reader.judgement,
    }.items():
        _, right = _text_loss(language, [draw() for _ in range(n)], None)
        found[name] = round(right.float().mean().item(), 3)
    return found


def _initialise_text(language: Language, seed: int) -> None:
    """Pieces that share words begin alike: "Option A: red" is the sum of "A" and "red"."""
    model, words = language.model, language.verbalizer
    generator = torch.Generator().manual_seed(seed)
    pieces = words.pieces()
    meaning: dict[str, Tensor] = {}
    with torch.no_grad():
        for number, piece in enumerate(pieces):
            parts = words_of(piece)
            own = torch.randn(WIDTH, generator=generator)
            for part in parts:
                if part not in meaning:
                    meaning[part] = torch.randn(WIDTH, generator=generator)
            vector = sum((meaning[part] for part in parts), 0.3 * own if parts else own)
            model.shared.weight[number] = vector
            model.lm_head.weight[number] = 0.05 * vector
        for name, parameter in model.named_parameters():
            if "relative_attention_bias" in name:
                parameter.copy_(2 * torch.randn(parameter.shape, generator=generator))
        for block in model.encoder.block:  # tokens that mean the same see each other from the beginning
            attention = block.layer[0].SelfAttention
            attention.q.weight.copy_(torch.randn(attention.q.weight.shape, generator=generator) * WIDTH**-0.5 * 0.6)
            attention.k.weight.copy_(attention.q.weight)
        model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight[0] -= 8  # but not each itself
