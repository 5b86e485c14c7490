"""MDP3: a determinantal point process in each stretch of the video, given the last frame chosen before it; dynamic programming
allots the frames to the stretches.

Sun et al., MDP3: A Training-free Approach for List-wise Frame Selection in Video-LLMs, ICCV 2025, arXiv 2501.02885. Kernel and
constants are those of its published code.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.selection.scaling import min_max, unit_vectors
from pipeline.selection.selector import Floats, Options, Positions, selector

ALPHAS = 2.0 ** np.arange(-3, 2)  # widths of the Gaussian kernels
LEAST = 1e-12  # kept of a frame that the chosen ones span: copies come last and the logarithm stays finite


class Mdp3Options(Options):
    """How relevance and diversity are weighed, and over how many frames."""

    trade_off: float = Field(0.2, gt=0, description="lambda of the paper: the lower, the more relevance weighs")
    stretch: int = Field(32, ge=1, description="candidate frames of a stretch")
    scores_are: Literal["min_max", "cosine"] = Field(
        "min_max",
        description="the cosine of frame and question: the scores as they are (the paper's, with CLIP or SigLIP), or scaled "
        "to 0 to 1 within the question (any scorer's)",
    )


@selector(version=1, source="MDP3, ICCV 2025, arXiv 2501.02885")
def mdp3(scores: Floats, vectors: Floats, k: int, options: Mdp3Options) -> Positions:
    """k frames, greedily chosen inside each stretch, with the best numbers of frames a stretch; all if there are at most k.

    A frame given the chosen ones counts 2 / trade_off * log of its kernel with the question, plus the log of what they leave
    of its kernel with itself. The published code counts the last frame of earlier stretches again in each; here it is only
    given, as in the paper's equations. Of equal sums the fewer frames before, of equal gains the earlier frame.
    """
    n, k = len(scores), min(k, len(scores))
    frames = unit_vectors(vectors)
    cosines = np.clip(scores, -1, 1) if options.scores_are == "cosine" else min_max(scores)
    relevance = 2 / options.trade_off * np.log(_kernel(cosines))
    sums = np.r_[0.0, np.full(k, -np.inf)]  # by number of frames chosen so far
    last = np.full(k + 1, -1)  # the last of these; -1: none is chosen
    steps = []
    for first in range(0, n, options.stretch):
        part = slice(first, first + options.stretch)
        gains, order = _greedy(frames, relevance, part, last, min(k, len(relevance[part])))
        sums, before = _best_split(sums, gains, k)
        steps.append((before, order + first))
        last = np.array([_last(before[now], now, order + first, last) for now in range(k + 1)])
    return _traced(steps, k)


def _kernel(cosines: Floats) -> Floats:
    """The mean of the Gaussian kernels of unit vectors with these cosines, in their shape."""
    distances = 2 - 2 * np.clip(cosines, -1, 1)
    return np.mean([np.exp(-distances / (2 * alpha)) for alpha in ALPHAS], axis=0)


def _greedy(
    frames: Floats, relevance: Floats, part: slice, last: NDArray[np.int64], most: int
) -> tuple[Floats, NDArray[np.int64]]:
    """Frames of a stretch in the order chosen, given each of S last frames: gains of the first 0 to `most`, [S, most + 1], and
    positions in the stretch [S, most]."""
    inside = frames[part]
    kernel = _kernel(inside @ inside.T)
    np.fill_diagonal(kernel, 1.0)
    states = np.arange(len(last))
    rows = np.zeros((len(last), most + 1, len(inside)))  # of the Cholesky factors
    rows[:, 0] = np.where(last[:, None] >= 0, _kernel(frames[last] @ inside.T), 0)
    left = np.maximum(1 - rows[:, 0] ** 2, LEAST)
    gains, order = np.zeros((len(last), most + 1)), np.zeros((len(last), most), np.int64)
    taken = np.zeros_like(left)  # minus infinity once a frame is chosen
    for step in range(most):
        values = relevance[part] + np.log(left) + taken
        best = values.argmax(axis=1)
        order[:, step] = best
        gains[:, step + 1] = gains[:, step] + values[states, best]
        known = np.einsum("sp,spn->sn", rows[states, : step + 1, best], rows[:, : step + 1])
        if step + 1 < most:
            rows[:, step + 1] = (kernel[best] - known) / np.sqrt(left[states, best])[:, None]
            left = np.maximum(left - rows[:, step + 1] ** 2, LEAST)
        taken[states, best] = -np.inf
    return gains, order


def _best_split(sums: Floats, gains: Floats, k: int) -> tuple[Floats, NDArray[np.int64]]:
    """The best sum for each number of frames up to a stretch's end, [k + 1], and how many of them lie before it, [k + 1]."""
    before, inside = np.ogrid[: k + 1, : gains.shape[1]]
    now = before + inside
    totals = np.full((k + 1, k + 1), -np.inf)  # [now, before]
    fits = now <= k
    totals[now[fits], np.broadcast_to(before, now.shape)[fits]] = (sums[:, None] + gains)[fits]
    best = totals.argmax(axis=1)
    return totals[np.arange(k + 1), best], best


def _last(before: int, now: int, order: NDArray[np.int64], last: NDArray[np.int64]) -> int:
    return int(order[before, : now - before].max()) if now > before else int(last[before])


def _traced(steps: list[tuple[NDArray[np.int64], NDArray[np.int64]]], k: int) -> Positions:
    chosen: list[int] = []
    for before, order in reversed(steps):
        chosen += order[before[k], : k - before[k]].tolist()
        k = int(before[k])
    return np.sort(np.array(chosen, np.int64))
