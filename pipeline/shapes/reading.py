"""Phase 1 of the Shapes backbone: T5 learns to answer and to judge, on text alone.

Shapes: R samples, K frames a sample, Q words a frame, D language width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.models.language import Language
from pipeline.models.prompts import frame_prefixes
from pipeline.models.verbalizer import Verbalizer
from pipeline.shapes.drawing import COLOURS, SHAPES
from pipeline.shapes.optimising import ShowStep, optimise
from pipeline.shapes.tokenizer import EMPTY, PLACES, SEEN, UNTOLD
from pipeline.shapes.writing import Sample, Writer
from pipeline.threads import side_by_side

LEARNING_RATE, BIAS_LEARNING_RATE = 2e-3, 2e-2  # relative position biases learn too slowly otherwise
SINGLE_SHARE = 0.25  # of the steps, the first ones, read single frames only
SEVERAL = (2, 2, 2, 4)  # frames of the later steps, in turn
AS_TEXT_EVERY = 8  # so many questions apart, one is answered by the option's text, for the readout by likelihood
WRONG_WORDS = 0.03  # share of words in a written frame that say something else
MOST_BLUR = 0.7  # standard deviation of what is added to words, which are about 1 in size
OTHER_WEIGHT = 0.1  # of tokens of the target that are not the answer: "Option" and the end
EVEN_SHARE = 0.3  # of the steps, the last ones, in which all tokens weigh the same


def train_reading(language: Language, seed: int, steps: int, batch: int, show: ShowStep) -> None:
    """Train all of T5 on `steps` batches of written frames.

    The answer's tokens weigh most until T5 knows letters. Left so, it begins with an option's text rather than with
    "Option" whenever it is sure of the answer, after which its letters say nothing.
    """
    model = language.model.requires_grad_(True)
    writer, noise = Writer(language.verbalizer, seed), torch.Generator().manual_seed(seed)
    biases = [parameter for name, parameter in model.named_parameters() if "relative_attention_bias" in name]
    rest = [parameter for name, parameter in model.named_parameters() if "relative_attention_bias" not in name]
    parameters = [*rest, *biases]
    groups = [{"params": rest, "lr": LEARNING_RATE}, {"params": biases, "lr": BIAS_LEARNING_RATE}]

    def backward(step: int) -> float:
        if step < steps * SINGLE_SHARE:
            pieces = [_questions(writer, batch // 2, 1) + [writer.judgement() for _ in range(batch // 2)]]
        else:
            single = _questions(writer, batch // 4, 1) + [writer.judgement() for _ in range(batch // 4)]
            pieces = [single, _questions(writer, batch // 2, SEVERAL[step % len(SEVERAL)])]
        other_weight = OTHER_WEIGHT if step < steps * (1 - EVEN_SHARE) else 1.0
        # What is random is drawn in order; the rest of each piece needs nothing of the other.
        seen = [_written(language, samples, noise) for samples in pieces]
        tasks = [
            partial(_gradient, language, *piece, other_weight, parameters) for piece in zip(pieces, seen, strict=True)
        ]
        results = side_by_side(tasks)
        for _, gradients in results:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return sum(loss / len(pieces) for loss, _ in results)

    optimise(groups, steps, backward, show)
    model.requires_grad_(False)


@torch.no_grad()
def reading_figures(language: Language, seed: int, n: int = 400) -> dict[str, float]:
    """Return shares of right answers on held-out texts, by letter and verdict; order needs several frames."""
    writer = Writer(language.verbalizer, seed)
    draws: dict[str, Callable[[], Sample]] = {
        "letter, one frame": lambda: writer.question(1),
        "letter, two frames": lambda: writer.question(2),
        "letter, four frames": lambda: writer.question(4),
        "yes or no": writer.judgement,
    }
    shares = {}
    for name, draw in draws.items():
        samples = [draw() for _ in range(n)]
        _, right = _loss(language, samples, _written(language, samples, None))
        shares[name] = right.float().mean().item()
    return shares


def _questions(writer: Writer, n: int, n_frames: int) -> list[Sample]:
    return [writer.question(n_frames, as_text=number % AS_TEXT_EVERY == 0) for number in range(n)]


def _gradient(
    language: Language, samples: Sequence[Sample], visual: Tensor, other_weight: float, parameters: Sequence[Tensor]
) -> tuple[float, tuple[Tensor | None, ...]]:
    """Return the loss and its gradient for each parameter; None for one that it does not depend on."""
    loss, _ = _loss(language, samples, visual, other_weight)
    return loss.item(), torch.autograd.grad(loss, parameters, allow_unused=True)


def _loss(
    language: Language, samples: Sequence[Sample], visual: Tensor, other_weight: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return the mean weighted cross-entropy, and per sample [R] whether T5 says the target as far as its telling token.

    Args:
        visual: the samples' frames, as `_written` returns them.
    """
    n_frames = visual.shape[1]
    inputs = language.assemble(frame_prefixes(n_frames), visual, [sample.text for sample in samples])
    hidden = language.encode(inputs)
    width = max(len(sample.target) for sample in samples)
    target = torch.tensor([[*sample.target, *[-100] * (width - len(sample.target))] for sample in samples])
    start = torch.full((len(samples), 1), language.start_id)
    logits = language.decode(hidden, inputs.mask, torch.cat([start, target[:, :-1].clamp(min=0)], dim=1))
    losses = functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view_as(target)
    rows, telling = torch.arange(len(samples)), torch.tensor([sample.telling for sample in samples])
    weights = torch.full(target.shape, other_weight)
    weights[rows, telling] = 1.0
    after = torch.arange(width) > telling[:, None]
    return (losses * weights).sum() / len(samples), ((logits.argmax(-1) == target) | after).all(dim=1)


def _written(language: Language, samples: Sequence[Sample], noise: torch.Generator | None) -> Tensor:
    """Return the frames' words as T5 embeds them, [R, K, Q, D]: with `noise` as blurred and wrong as seen ones may be."""
    known, table = _word_ids(language.verbalizer), language.model.shared
    ids = torch.tensor([[[known[word] for word in frame] for frame in sample.frames] for sample in samples])
    if noise is None:
        return table(ids)
    wrong = torch.rand(ids.shape, generator=noise) < WRONG_WORDS
    visual = table(torch.where(wrong, ids[torch.randperm(len(ids), generator=noise)], ids))
    amount = MOST_BLUR * torch.rand(len(ids), 1, 1, 1, generator=noise)
    return visual + amount * torch.randn(visual.shape, generator=noise)


@cache
def _word_ids(verbalizer: Verbalizer) -> dict[str, int]:
    return {word: verbalizer.word_id(word) for word in (*SEEN, *COLOURS, *SHAPES, *PLACES, EMPTY, UNTOLD)}
