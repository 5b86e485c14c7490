"""Phases 2 and 3 of the Shapes backbone: the ViT learns to classify single images, the Q-Former to describe them in T5's words.

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
from pipeline.shapes.drawing import COLOURS, NOTHING, PAINTS, SHAPES, Appearance, DrawnObjects, draw
from pipeline.shapes.model import IMAGE_SIZE, WIDTH
from pipeline.shapes.optimising import ShowStep, optimise
from pipeline.shapes.tokenizer import EMPTY, PLACES, SEEN, UNCOLOURED
from pipeline.shapes.world import CAST, clean_look
from pipeline.shapes.writing import place

WORDS = ((*SEEN, EMPTY), (*COLOURS, UNCOLOURED, EMPTY), (*SHAPES, EMPTY), (*PLACES, EMPTY))
ATTRIBUTES = ("thing", "colour", "shape", "place")
EMPTY_SHARE = 0.1
SEEING_RATE, DESCRIBING_RATE = 4e-3, 1e-3
DESCRIBING_IMAGES = 6000
TINTED_SHARE, MAX_TINT = 0.5, 0.8  # of the Q-Former's images; tint from 0, white light, to 1, that of the videos


class Images(NamedTuple):
    """Single images [N, H, H, 3] uint8, and the words for their content as indices into WORDS, [N, Q] int64."""

    pixels: np.ndarray
    words: np.ndarray


def images(n: int, look: Appearance, rng: np.random.Generator) -> Images:
    """Return n images of random things at random places."""
    shape, colour = rng.integers(len(SHAPES), size=n), rng.integers(len(PAINTS), size=n)
    empty = rng.random(n) < EMPTY_SHARE
    shape[empty] = NOTHING
    x, y = rng.uniform(0.18, 0.82, (2, n))
    places = np.array([place(*position) for position in zip(x, y, strict=True)])
    words = np.stack([colour * len(SHAPES) + shape, colour, shape, places], axis=1)
    words[empty] = [len(names) - 1 for names in WORDS]
    return Images(draw(DrawnObjects(colour, shape, x, y, rng.uniform(0.2, 0.26, n)), look, IMAGE_SIZE, rng), words)


def varied_look(n: int, rng: np.random.Generator) -> Appearance:
    """Return the looks of the ViT's training images: uneven and noisy, but in nearly white light."""
    return Appearance(
        background=rng.uniform(0.05, 0.35, (n, 1)) + rng.uniform(0, 0.1, (n, 3)),
        slope=rng.uniform(-0.2, 0.2, (n, 2)),
        tint=rng.uniform(0.9, 1.0, (n, 3)),
        noise=rng.uniform(0, 0.06, n),
        spots=rng.uniform(0, 0.06, n),
    )


def lit_look(n: int, rng: np.random.Generator) -> Appearance:
    """Return the looks of the Q-Former's training images: clean, some with a tint between white and the videos' light."""
    way = rng.uniform(0, MAX_TINT, (n, 1)) * (rng.random((n, 1)) < TINTED_SHARE)
    return replace(clean_look(n, rng), tint=1 - way * (1 - np.array(CAST)))


def train_seeing(model: Blip2ForConditionalGeneration, seed: int, steps: int, batch: int, show: ShowStep) -> None:
    """Run phase 2: train the ViT with a linear head per attribute on the mean of its tokens; the heads are discarded."""
    vision, rng = model.vision_model, np.random.default_rng([seed, 2])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = nn.ModuleList(nn.Linear(WIDTH, len(names)) for names in WORDS[1:])  # without thing: colour and shape

    def backward(step: int) -> float:
        shown = images(batch, varied_look(batch, rng), rng)
        tokens = encode(model, shown.pixels)
        pooled = functional.layer_norm(tokens, tokens.shape[-1:]).mean(dim=1)
        target = torch.from_numpy(shown.words)
        loss = torch.stack(
            [functional.cross_entropy(head(pooled), target[:, number]) for number, head in enumerate(heads, 1)]
        ).sum()
        loss.backward()
        return loss.item()

    parameters = [*vision.embeddings.parameters(), *vision.encoder.parameters(), *heads.parameters()]
    optimise([{"params": parameters, "lr": SEEING_RATE}], steps, backward, show)


def train_describing(
    model: Blip2ForConditionalGeneration, verbalizer: Verbalizer, seed: int, steps: int, batch: int, show: ShowStep
) -> None:
    """Run phase 3: train LayerNorm, query tokens, Q-Former and projection to output T5's embedding of word q at query q.

    ViT and T5 are frozen.
    """
    rng = np.random.default_rng([seed, 3])
    shown = images(DESCRIBING_IMAGES, lit_look(DESCRIBING_IMAGES, rng), rng)
    with torch.no_grad():
        features = torch.cat([encode(model, shown.pixels[at : at + 500]) for at in range(0, DESCRIBING_IMAGES, 500)])
        target = torch.stack(
            [table[shown.words[:, number]] for number, table in enumerate(_tables(model, verbalizer))], 1
        )
    parameters = [
        *model.vision_model.post_layernorm.parameters(),
        model.query_tokens,
        *model.qformer.parameters(),
        *model.language_projection.parameters(),
    ]

    def backward(step: int) -> float:
        rows = rng.integers(DESCRIBING_IMAGES, size=batch)
        loss = functional.mse_loss(describe(model, features[rows]), target[rows])
        loss.backward()
        return loss.item()

    optimise([{"params": parameters, "lr": DESCRIBING_RATE}], steps, backward, show)


@torch.no_grad()
def describing_figures(
    model: Blip2ForConditionalGeneration, verbalizer: Verbalizer, seed: int, n: int = 1000
) -> dict[str, float]:
    """Return, by attribute, the accuracy of the word nearest to the Q-Former's output, on held-out clean images."""
    rng = np.random.default_rng([seed, 4])
    shown = images(n, clean_look(n, rng), rng)
    described = describe(model, encode(model, shown.pixels))
    shares = {}
    for number, (name, table) in enumerate(zip(ATTRIBUTES, _tables(model, verbalizer), strict=True)):
        nearest = torch.cdist(described[:, number], table).argmin(dim=-1).numpy()
        shares[name] = float((nearest == shown.words[:, number]).mean())
    return shares


def encode(model: Blip2ForConditionalGeneration, values: np.ndarray) -> Tensor:
    """Return the ViT's features [N, P, W] before the final LayerNorm, as the chain stores them, of images [N, H, H, 3] uint8."""
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
    """Return T5's embeddings of the words of each entry of WORDS."""
    embeddings = model.language_model.shared.weight.detach()
    return [embeddings[[verbalizer.word_id(word) for word in names]] for names in WORDS]
