"""Differentiable top k, as an expectation over noise.

Berthet et al., "Learning with Differentiable Perturbed Optimizers" (NeurIPS 2020); for the top k, Cordonnier et al.,
"Differentiable Patch Selection for Image Recognition" (CVPR 2021), section 3. Shapes: R rows, T frames, N draws of noise.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional


def hard_top_k(scores: Tensor, k: int) -> Tensor:
    """Return the k best frames of each row of scores [..., T] in time order, as one-hot vectors [..., k, T]."""
    chosen = scores.topk(k, dim=-1).indices.sort(dim=-1).values
    return functional.one_hot(chosen, scores.shape[-1]).to(scores.dtype)


def perturbed_top_k(scores: Tensor, k: int, noise: Tensor, deviation: float) -> Tensor:
    """Return the mean of `hard_top_k` of the scores plus noise, [R, k, T], with a gradient estimated from the same draws.

    Entry [r, j, t] is the probability that frame t is the j-th in time of the k best.

    Args:
        scores: [R, T].
        noise: [N, R, T], standard normal.
        deviation: standard deviation of the noise added to the scores.
    """
    return cast(Tensor, _PerturbedTopK.apply(scores, k, noise, deviation))


class _PerturbedTopK(torch.autograd.Function):
    """The Jacobian is E[indicators noise^T] / deviation (Berthet et al., proposition 3.1)."""

    @staticmethod
    def forward(context: Any, scores: Tensor, k: int, noise: Tensor, deviation: float) -> Tensor:
        """Return the mean of the indicators [R, k, T]."""
        indicators = hard_top_k(scores + deviation * noise, k)  # [N, R, k, T]
        context.save_for_backward(indicators, noise)
        context.deviation = deviation
        return indicators.mean(dim=0)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient of the scores [R, T]."""
        indicators, noise = context.saved_tensors
        along = torch.einsum("rkt,nrkt->nr", gradients[0], indicators)
        return torch.einsum("nr,nrt->rt", along, noise) / (len(noise) * context.deviation), None, None, None
