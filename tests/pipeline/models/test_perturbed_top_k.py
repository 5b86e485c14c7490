"""The perturbed top k and its gradient, compared with closed forms and finite differences."""

import math

import torch
from torch.distributions import Normal

from pipeline.models.frame_selector import one_frame, top_k_frames
from pipeline.models.perturbed_top_k import hard_top_k, perturbed_top_k


def test_hard_top_k_takes_the_best_frames_in_time_order() -> None:
    assert hard_top_k(torch.tensor([[0.1, 0.9, 0.2, 0.5]]), 2).argmax(dim=2).tolist() == [[1, 3]]


def test_share_and_gradient_of_two_frames_match_the_normal_distribution() -> None:
    noise = torch.randn(200_000, 1, 2, generator=torch.Generator().manual_seed(0))
    scores = torch.tensor([[0.1, 0.0]], requires_grad=True)
    share = perturbed_top_k(scores, 1, noise, 0.2)[0, 0, 0]
    share.backward()
    # The noise of the difference of both scores has the deviation 0.2 * sqrt(2).
    deviation, normal = 0.2 * math.sqrt(2), Normal(0.0, 1.0)
    standardised = torch.tensor(0.1 / deviation)
    slope = float(normal.log_prob(standardised).exp()) / deviation
    assert scores.grad is not None
    torch.testing.assert_close(share.detach(), normal.cdf(standardised), atol=5e-3, rtol=0)
    torch.testing.assert_close(scores.grad[0], torch.tensor([slope, -slope]), atol=3e-2, rtol=0)


def test_the_gradient_of_several_frames_matches_finite_differences() -> None:
    noise = torch.randn(200_000, 1, 4, generator=torch.Generator().manual_seed(1))
    scores = torch.tensor([[0.3, 0.0, 0.2, -0.1]], requires_grad=True)
    weights = torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(2))

    def value(scores: torch.Tensor) -> torch.Tensor:
        return (perturbed_top_k(scores, 2, noise, 0.3) * weights).sum()

    value(scores).backward()
    assert scores.grad is not None
    step, start = 0.05, scores.detach()
    forward = [start + step * torch.eye(4)[place] for place in range(4)]
    backward = [start - step * torch.eye(4)[place] for place in range(4)]
    differences = [float(value(up) - value(down)) / (2 * step) for up, down in zip(forward, backward, strict=True)]
    torch.testing.assert_close(scores.grad[0], torch.tensor(differences), atol=5e-2, rtol=0)


def test_negligible_noise_gives_the_hard_top_k() -> None:
    scores = torch.tensor([[10.0, 90.0, 20.0, 50.0]])
    assert torch.equal(top_k_frames(scores, 2, 8, 1e-6), hard_top_k(scores, 2))


def test_one_frame_is_drawn_by_its_score_and_the_seed() -> None:
    scores = torch.tensor([[2.0, 0.0, 0.0]]).repeat(4000, 1).requires_grad_()
    torch.manual_seed(3)
    drawn = one_frame(scores)
    assert (
        drawn.shape == (4000, 1, 3) and set(drawn.unique().tolist()) <= {0.0, 1.0} and bool((drawn.sum(2) == 1).all())
    )
    share = float(drawn[:, 0, 0].mean().detach())
    assert abs(share - float(torch.tensor([2.0, 0.0, 0.0]).softmax(0)[0])) < 0.03
    drawn[:, 0, 0].sum().backward()  # straight-through gradient of the softmax
    assert scores.grad is not None and bool((scores.grad[:, 0] > 0).all()) and bool((scores.grad[:, 1:] < 0).all())
    torch.manual_seed(3)
    assert torch.equal(one_frame(scores), drawn)
