"""Phase 1 of the Shapes backbone: T5 learns to answer questions and to judge frames, on text alone.

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
from pipeline.shapes.tokenizer import EMPTY, PLACES, SEEN, UNCOLOURED
from pipeline.shapes.writing import Sample, Writer
from pipeline.threads import side_by_side

LEARNING_RATE, BIAS_LEARNING_RATE = 2e-3, 2e-2  # relative position biases need a larger one
SINGLE_SHARE = 0.25  # share of the steps, at the start, with single frames only
SEVERAL = (2, 2, 2, 4)  # numbers of frames of the later steps, in turn
AS_TEXT_EVERY = 8  # every eighth question is answered by the option's text, for the readout by likelihood
WRONG_WORDS = 0.03  # share of wrong words in a described frame
MAX_BLUR = 0.7  # largest standard deviation of the noise added to word embeddings, whose entries are about 1
OTHER_WEIGHT = 0.1  # loss weight of target tokens other than the answer: "Option" and the end token
EVEN_SHARE = 0.3  # share of the steps, at the end, with equal weights for all tokens


def train_reading(language: Language, seed: int, steps: int, batch: int, show: ShowStep) -> None:
    """Train all of T5 on `steps` batches of described frames.

    The answer's tokens have the largest weight until T5 knows the letters. With these weights to the end, T5 would start with an
    option's text instead of "Option" whenever it is sure of the answer, and the logits of letters would be meaningless.
    """
    model = language.model.requires_grad_(True)
    writer, noise = Writer(language.verbalizer, seed), torch.Generator().manual_seed(seed)
    biases = [parameter for name, parameter in model.named_parameters() if "relative_attention_bias" in name]
    others = [parameter for name, parameter in model.named_parameters() if "relative_attention_bias" not in name]
    parameters = [*others, *biases]
    groups = [{"params": others, "lr": LEARNING_RATE}, {"params": biases, "lr": BIAS_LEARNING_RATE}]

    def backward(step: int) -> float:
        if step < steps * SINGLE_SHARE:
            parts = [_questions(writer, batch // 2, 1) + [writer.judgement() for _ in range(batch // 2)]]
        else:
            single = _questions(writer, batch // 4, 1) + [writer.judgement() for _ in range(batch // 4)]
            parts = [single, _questions(writer, batch // 2, SEVERAL[step % len(SEVERAL)])]
        other_weight = OTHER_WEIGHT if step < steps * (1 - EVEN_SHARE) else 1.0
        # Random numbers are drawn in order; then the parts are independent.
        visual = [_described(language, samples, noise) for samples in parts]
        tasks = [
            partial(_gradient, language, *part, other_weight, parameters) for part in zip(parts, visual, strict=True)
        ]
        results = side_by_side(tasks)
        for _, gradients in results:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return sum(loss / len(parts) for loss, _ in results)

    optimise(groups, steps, backward, show)
    model.requires_grad_(False)


@torch.no_grad()
def reading_figures(language: Language, seed: int, n: int = 400) -> dict[str, float]:
    """Return the accuracies on held-out texts, of letters by number of frames, and of verdicts."""
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
        _, right = _loss(language, samples, _described(language, samples, None))
        shares[name] = right.float().mean().item()
    return shares


def _questions(writer: Writer, n: int, n_frames: int) -> list[Sample]:
    return [writer.question(n_frames, as_text=number % AS_TEXT_EVERY == 0) for number in range(n)]


def _gradient(
    language: Language, samples: Sequence[Sample], visual: Tensor, other_weight: float, parameters: Sequence[Tensor]
) -> tuple[float, tuple[Tensor | None, ...]]:
    """Return the loss, and its gradient with respect to each parameter; None for unused parameters."""
    loss, _ = _loss(language, samples, visual, other_weight)
    return loss.item(), torch.autograd.grad(loss, parameters, allow_unused=True)


def _loss(
    language: Language, samples: Sequence[Sample], visual: Tensor, other_weight: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return the mean weighted cross-entropy, and [R] whether T5 predicts the target up to its answer token.

    Args:
        visual: the samples' frames [R, K, Q, D], as `_described` returns them.
    """
    n_frames = visual.shape[1]
    inputs = language.assemble(frame_prefixes(n_frames), visual, [sample.text for sample in samples])
    hidden = language.encode(inputs)
    width = max(len(sample.target) for sample in samples)
    target = torch.tensor([[*sample.target, *[-100] * (width - len(sample.target))] for sample in samples])
    start = torch.full((len(samples), 1), language.start_id)
    logits = language.decode(hidden, inputs.mask, torch.cat([start, target[:, :-1].clamp(min=0)], dim=1))
    losses = functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view_as(target)
    rows, answer_at = torch.arange(len(samples)), torch.tensor([sample.answer_at for sample in samples])
    weights = torch.full(target.shape, other_weight)
    weights[rows, answer_at] = 1.0
    after = torch.arange(width) > answer_at[:, None]
    return (losses * weights).sum() / len(samples), ((logits.argmax(-1) == target) | after).all(dim=1)


def _described(language: Language, samples: Sequence[Sample], noise: torch.Generator | None) -> Tensor:
    """Return T5's embeddings of the frames' words, [R, K, Q, D]; with `noise`, some words are wrong and all blurred."""
    id_of, table = _word_ids(language.verbalizer), language.model.shared
    ids = torch.tensor([[[id_of[word] for word in frame] for frame in sample.frames] for sample in samples])
    if noise is None:
        return table(ids)
    wrong = torch.rand(ids.shape, generator=noise) < WRONG_WORDS
    visual = table(torch.where(wrong, ids[torch.randperm(len(ids), generator=noise)], ids))
    amount = MAX_BLUR * torch.rand(len(ids), 1, 1, 1, generator=noise)
    return visual + amount * torch.randn(visual.shape, generator=noise)


@cache
def _word_ids(verbalizer: Verbalizer) -> dict[str, int]:
    return {word: verbalizer.word_id(word) for word in (*SEEN, *COLOURS, *SHAPES, *PLACES, EMPTY, UNCOLOURED)}
