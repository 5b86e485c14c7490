"""Phases 2 and 3 of the Shapes backbone: the ViT learns to see single images, the Q-Former to tell them in T5's words.

Shapes: N images, H pixels of height and width, P patches + 1 class token, W vision width, Q words an image, D language width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Blip2ForConditionalGeneration

from pipeline.models.verbalizer import Verbalizer
from pipeline.models.vision import pixels
from pipeline.shapes.drawing import COLOURS, NOTHING, PAINTS, SHAPES, Look, Things, draw
from pipeline.shapes.model import IMAGE_SIZE, WIDTH
from pipeline.shapes.optimising import ShowStep, optimise
from pipeline.shapes.tokenizer import EMPTY, PLACES, SEEN, UNTOLD
from pipeline.shapes.world import CAST, clean_look
from pipeline.shapes.writing import place

WORDS = ((*SEEN, EMPTY), (*COLOURS, UNTOLD, EMPTY), (*SHAPES, EMPTY), (*PLACES, EMPTY))
ATTRIBUTES = ("thing", "colour", "shape", "place")
EMPTY_SHARE = 0.1
SEEING_RATE, TELLING_RATE = 4e-3, 1e-3
TELLING_IMAGES = 6000
LIT_SHARE, MOST_LIT = 0.5, 0.8  # of the Q-Former's images; how far their light is on the way from white to the videos'


class Images(NamedTuple):
    """Single images [N, H, H, 3] uint8 and what they show: indices into WORDS, [N, Q] int64."""

    pixels: np.ndarray
    words: np.ndarray


def images(n: int, look: Look, rng: np.random.Generator) -> Images:
    """Return n images of random things at random places."""
    shape, colour = rng.integers(len(SHAPES), size=n), rng.integers(len(PAINTS), size=n)
    empty = rng.random(n) < EMPTY_SHARE
    shape[empty] = NOTHING
    x, y = rng.uniform(0.18, 0.82, (2, n))
    places = np.array([place(*position) for position in zip(x, y, strict=True)])
    words = np.stack([colour * len(SHAPES) + shape, colour, shape, places], axis=1)
    words[empty] = [len(names) - 1 for names in WORDS]
    return Images(draw(Things(colour, shape, x, y, rng.uniform(0.2, 0.26, n)), look, IMAGE_SIZE, rng), words)


def varied_look(n: int, rng: np.random.Generator) -> Look:
    """Return the looks of the ViT's images: uneven and noisy ones too, but all in about white light."""
    return Look(
        background=rng.uniform(0.05, 0.35, (n, 1)) + rng.uniform(0, 0.1, (n, 3)),
        slope=rng.uniform(-0.2, 0.2, (n, 2)),
        tint=rng.uniform(0.9, 1.0, (n, 3)),
        noise=rng.uniform(0, 0.06, n),
        spots=rng.uniform(0, 0.06, n),
    )


def lit_look(n: int, rng: np.random.Generator) -> Look:
    """Return the looks of the Q-Former's images: clean, and some in a light between white and the videos'."""
    way = rng.uniform(0, MOST_LIT, (n, 1)) * (rng.random((n, 1)) < LIT_SHARE)
    return replace(clean_look(n, rng), tint=1 - way * (1 - np.array(CAST)))


def train_seeing(model: Blip2ForConditionalGeneration, seed: int, steps: int, batch: int, show: ShowStep) -> None:
    """Phase 2: train the ViT with a linear head for each word on the mean of its tokens; the heads are thrown away."""
    vision, rng = model.vision_model, np.random.default_rng([seed, 2])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = nn.ModuleList(nn.Linear(WIDTH, len(names)) for names in WORDS[1:])  # a thing is its colour and shape

    def backward(step: int) -> float:
        seen = images(batch, varied_look(batch, rng), rng)
        tokens = encode(model, seen.pixels)
        pooled = functional.layer_norm(tokens, tokens.shape[-1:]).mean(dim=1)
        targets = torch.from_numpy(seen.words)
        loss = torch.stack(
            [functional.cross_entropy(head(pooled), targets[:, number]) for number, head in enumerate(heads, 1)]
        ).sum()
        loss.backward()
        return loss.item()

    parameters = [*vision.embeddings.parameters(), *vision.encoder.parameters(), *heads.parameters()]
    optimise([{"params": parameters, "lr": SEEING_RATE}], steps, backward, show)


def train_telling(
    model: Blip2ForConditionalGeneration, verbalizer: Verbalizer, seed: int, steps: int, batch: int, show: ShowStep
) -> None:
    """Phase 3: train LayerNorm, query tokens, Q-Former and projection until query q gives T5's embedding of the q-th word.

    ViT and T5 are frozen.
    """
    rng = np.random.default_rng([seed, 3])
    seen = images(TELLING_IMAGES, lit_look(TELLING_IMAGES, rng), rng)
    with torch.no_grad():
        features = torch.cat([encode(model, seen.pixels[at : at + 500]) for at in range(0, TELLING_IMAGES, 500)])
        targets = torch.stack(
            [table[seen.words[:, number]] for number, table in enumerate(_tables(model, verbalizer))], 1
        )
    parameters = [
        *model.vision_model.post_layernorm.parameters(),
        model.query_tokens,
        *model.qformer.parameters(),
        *model.language_projection.parameters(),
    ]

    def backward(step: int) -> float:
        rows = rng.integers(TELLING_IMAGES, size=batch)
        loss = functional.mse_loss(describe(model, features[rows]), targets[rows])
        loss.backward()
        return loss.item()

    optimise([{"params": parameters, "lr": TELLING_RATE}], steps, backward, show)


@torch.no_grad()
def telling_figures(
    model: Blip2ForConditionalGeneration, verbalizer: Verbalizer, seed: int, n: int = 1000
) -> dict[str, float]:
    """Return, for held-out clean images, the share of words that are nearest to what the Q-Former tells."""
    rng = np.random.default_rng([seed, 4])
    seen = images(n, clean_look(n, rng), rng)
    described = describe(model, encode(model, seen.pixels))
    shares = {}
    for number, (name, table) in enumerate(zip(ATTRIBUTES, _tables(model, verbalizer), strict=True)):
        nearest = torch.cdist(described[:, number], table).argmin(dim=-1).numpy()
        shares[name] = float((nearest == seen.words[:, number]).mean())
    return shares


def encode(model: Blip2ForConditionalGeneration, values: np.ndarray) -> Tensor:
    """Return the ViT's features [N, P, W] before any LayerNorm, as the chain stores them, of images [N, H, H, 3] uint8."""
    vision = model.vision_model
    return vision.encoder(inputs_embeds=vision.embeddings(pixels(torch.from_numpy(values)))).last_hidden_state


def describe(model: Blip2ForConditionalGeneration, features: Tensor) -> Tensor:
    """Return visual tokens [N, Q, D] of features [N, P, W]."""
    normed = model.vision_model.post_layernorm(features)
    queries = model.query_tokens.expand(len(features), -1, -1)
    return model.language_projection(
        model.qformer(query_embeds=queries, encoder_hidden_states=normed).last_hidden_state
    )


def _tables(model: Blip2ForConditionalGeneration, verbalizer: Verbalizer) -> list[Tensor]:
    """T5's embeddings of the words of each place in WORDS."""
    embeddings = model.language_model.shared.weight.detach()
    return [embeddings[[verbalizer.word_id(word) for word in names]] for names in WORDS]
