"""Phases 2 and 3 of the Shapes backbone: the ViT learns to see single images, the Q-Former to tell them in T5's words."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Blip2ForConditionalGeneration

from pipeline.frames import pixels
from pipeline.shapes.drawing import COLOURS, NOTHING, SHAPES, Look, Things, draw
from pipeline.shapes.reading import _third
from pipeline.shapes.tokenizer import ACROSS, DOWN, EMPTY
from pipeline.shapes.world import clean_look

WORDS = ((*COLOURS, EMPTY), (*SHAPES, EMPTY), (*ACROSS, EMPTY), (*DOWN, EMPTY))
EMPTY_SHARE = 0.1


class Images(NamedTuple):
    pixels: np.ndarray  # [N, 48, 48, 3] uint8
    words: np.ndarray  # [N, 4] int64, indices into WORDS


def images(n: int, size: int, rng: np.random.Generator, look: Look) -> Images:
    """Return n random images and what they show."""
    shape = rng.integers(len(SHAPES), size=n)
    empty = rng.random(n) < EMPTY_SHARE
    shape[empty] = NOTHING
    colour = rng.integers(len(COLOURS), size=n)
    x, y = rng.uniform(0.18, 0.82, (2, n))
    things = Things(colour, shape, x, y, rng.uniform(0.2, 0.26, n))
    words = np.stack(
        [colour, shape, np.array([_third(value) for value in x]), np.array([_third(value) for value in y])], axis=1
    )
    words[empty] = [len(names) - 1 for names in WORDS]
    return Images(draw(things, look, size, rng), words)


def varied_look(n: int, rng: np.random.Generator) -> Look:
    """Return the looks of the ViT's images: backgrounds, tints and noise of many kinds."""
    return Look(
        background=rng.uniform(0.05, 0.35, (n, 1)) + rng.uniform(0, 0.1, (n, 3)),
        slope=rng.uniform(-0.2, 0.2, (n, 2)),
        tint=rng.uniform(0.9, 1.0, (n, 3)),
        noise=rng.uniform(0, 0.06, n),
        spots=rng.uniform(0, 0.06, n),
        turn=rng.uniform(-0.1, 0.1, n),
    )


class Eye(nn.Module):
    """The ViT with a linear head for each word on its class token."""

    def __init__(self, model: Blip2ForConditionalGeneration) -> None:
        super().__init__()
        self.vision = model.vision_model
        self.heads = nn.ModuleList(nn.Linear(model.config.vision_config.hidden_size, len(names)) for names in WORDS)

    def forward(self, values: Tensor) -> list[Tensor]:
        hidden = features(self.vision, values)
        pooled = functional.layer_norm(hidden, hidden.shape[-1:]).mean(1)
        return [head(pooled) for head in self.heads]


def features(vision: nn.Module, values: Tensor) -> Tensor:
    """Return [N, P, D] before any LayerNorm, as the chain stores them."""
    return vision.encoder(inputs_embeds=vision.embeddings(values)).last_hidden_state


def _initialise_vision(vision: nn.Module) -> None:
    """Patches begin by looking at their neighbours: waves for positions, and queries that are their own keys."""
    side = vision.config.image_size // vision.config.patch_size
    width = vision.config.hidden_size
    frequency = math.pi * torch.logspace(-0.3, 0.3, width // 4)  # periods of about 2 to 4 in units of half the picture
    place = torch.linspace(-1, 1, side)
    waves = torch.cat([(place[:, None] * frequency).sin(), (place[:, None] * frequency).cos()], dim=1)  # [side, W / 2]
    down, across = waves[:, None].expand(side, side, -1), waves[None].expand(side, side, -1)
    embeddings = vision.embeddings
    embeddings.position_embedding.zero_()
    embeddings.position_embedding[0, 1:] = 0.7 * torch.cat([down, across], dim=-1).flatten(0, 1)
    embeddings.class_embedding.normal_(std=0.3)
    embeddings.patch_embedding.weight.normal_(std=embeddings.patch_embedding.weight[0].numel() ** -0.5)
    for layer in vision.encoder.layers:
        weight = layer.self_attn.qkv.weight
        weight[:width].normal_(std=width**-0.5)
        weight[width : 2 * width] = weight[:width]


def visual_tokens(model: Blip2ForConditionalGeneration, feats: Tensor) -> Tensor:
    normed = model.vision_model.post_layernorm(feats)
    queries = model.query_tokens.expand(len(feats), -1, -1)
    out = model.qformer(query_embeds=queries, encoder_hidden_states=normed).last_hidden_state
    return model.language_projection(out)


def cosine(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 30) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
    )


def train_seeing(model: Blip2ForConditionalGeneration, seed: int, steps: int, batch: int) -> None:
    """Phase 2."""
    rng = np.random.default_rng(seed)
    eye = Eye(model)
    with torch.no_grad():
        _initialise_vision(model.vision_model)
    optimizer = torch.optim.AdamW(eye.parameters(), lr=4e-3, weight_decay=0.01)
    schedule = cosine(optimizer, steps)
    start = time.process_time()
    for step in range(steps):
        seen = images(batch, 32, rng, varied_look(batch, rng))
        logits = eye(torch.from_numpy(pixels(seen.pixels)))
        target = torch.from_numpy(seen.words)
        loss = sum(functional.cross_entropy(each, target[:, number]) for number, each in enumerate(logits))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(eye.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            right = [(each.argmax(-1) == target[:, number]).float().mean().item() for number, each in enumerate(logits)]
            print(step + 1, round(time.process_time() - start, 1), round(loss.item(), 3), np.round(right, 2), flush=True)


def train_telling(model: Blip2ForConditionalGeneration, ids: list[Tensor], seed: int, steps: int, batch: int, n: int = 6000) -> None:
    """Phase 3. `ids`: token ids of WORDS."""
    rng = np.random.default_rng([seed, 3])
    start = time.process_time()
    with torch.no_grad():
        model.query_tokens.normal_(std=1.0)
    seen = images(n, 32, rng, clean_look(n, rng))
    feats = encode(model, seen.pixels)
    table = model.language_model.shared.weight.detach()
    words = torch.from_numpy(seen.words)
    wanted = torch.stack([table[ids[number][words[:, number]]] for number in range(4)], dim=1)
    trained = [*model.vision_model.post_layernorm.parameters(), model.query_tokens, *model.qformer.parameters(), *model.language_projection.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.01)
    schedule = cosine(optimizer, steps)
    for step in range(steps):
        rows = torch.from_numpy(rng.integers(n, size=batch))
        out = visual_tokens(model, feats[rows])
        loss = functional.mse_loss(out, wanted[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(step + 1, round(time.process_time() - start, 1), round(loss.item(), 3), told(model, ids, out, words[rows]), flush=True)


@torch.no_grad()
def encode(model: Blip2ForConditionalGeneration, values: np.ndarray) -> Tensor:
    return torch.cat([features(model.vision_model, torch.from_numpy(pixels(values[at : at + 500]))) for at in range(0, len(values), 500)])


def told(model, ids, out: Tensor, words: Tensor) -> list[float]:
    table = model.language_model.shared.weight.detach()
    found = []
    for number in range(4):
        distance = torch.cdist(out[:, number], table[ids[number]])
        found.append(round((distance.argmin(-1) == words[:, number]).float().mean().item(), 3))
    return found
