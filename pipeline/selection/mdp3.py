"""MDP3: a determinantal point process per stretch of the video, conditioned on the last frame chosen before it; dynamic
programming distributes the frames over the stretches.

Sun et al., MDP3: A Training-free Approach for List-wise Frame Selection in Video-LLMs, ICCV 2025, arXiv 2501.02885. Kernel and
constants follow its published code.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.selection.scaling import min_max, unit_vectors
from pipeline.selection.selector import Floats, Options, Positions, selector

ALPHAS = 2.0 ** np.arange(-3, 2)  # widths of the Gaussian kernels
MIN_RESIDUAL = 1e-12  # of a frame that the chosen ones span: duplicates come last and the logarithm stays finite


class Mdp3Options(Options):
    """The weights of relevance and diversity, and the length of a stretch."""

    trade_off: float = Field(0.2, gt=0, description="lambda of the paper: lower values give relevance more weight")
    stretch: int = Field(32, ge=1, description="candidate frames per stretch")
    scores_are: Literal["min_max", "cosine"] = Field(
        "min_max",
        description="source of the cosine of frame and question: cosine: the scores unchanged (the paper's, with CLIP or "
        "SigLIP); min_max: scores of any scorer, scaled to 0 to 1 within the question",
    )


@selector(version=1, source="MDP3, ICCV 2025, arXiv 2501.02885")
def mdp3(scores: Floats, vectors: Floats, k: int, options: Mdp3Options) -> Positions:
    """Return k frames, chosen greedily in each stretch, with the best number of frames per stretch; all if at most k exist.

    The gain of a frame given the chosen ones is 2 / trade_off * log of its kernel with the question, plus the log of the
    residual of its kernel with itself. The published code counts the last frame of earlier stretches again in each stretch;
    here it is only a condition, as in the paper's equations. Ties: of equal sums, fewer frames in earlier stretches; of equal
    gains, the earlier frame.
    """
    n, k = len(scores), min(k, len(scores))
    frames = unit_vectors(vectors)
    cosines = np.clip(scores, -1, 1) if options.scores_are == "cosine" else min_max(scores)
    relevance = 2 / options.trade_off * np.log(_kernel(cosines))
    sums = np.r_[0.0, np.full(k, -np.inf)]  # by number of frames chosen so far
    last = np.full(k + 1, -1)  # position of the last of these; -1: none chosen
    steps = []
    for first in range(0, n, options.stretch):
        part = slice(first, first + options.stretch)
        gains, order = _greedy(frames, relevance, part, last, min(k, len(relevance[part])))
        sums, before = _best_split(sums, gains, k)
        steps.append((before, order + first))
        last = np.array([_last_position(before[total], total, order + first, last) for total in range(k + 1)])
    return _backtrack(steps, k)


def _kernel(cosines: Floats) -> Floats:
    """Return the mean of the Gaussian kernels of unit vectors with these cosines, in the same shape."""
    distances = 2 - 2 * np.clip(cosines, -1, 1)
    return np.mean([np.exp(-distances / (2 * alpha)) for alpha in ALPHAS], axis=0)


def _greedy(
    frames: Floats, relevance: Floats, part: slice, last: NDArray[np.int64], max_frames: int
) -> tuple[Floats, NDArray[np.int64]]:
    """Choose frames of a stretch given each of S last frames; return the summed gains of the first 0 to `max_frames`,
    [S, max_frames + 1], and the positions in the stretch in the order chosen, [S, max_frames]."""
    inside = frames[part]
    kernel = _kernel(inside @ inside.T)
    np.fill_diagonal(kernel, 1.0)
    states = np.arange(len(last))
    cholesky = np.zeros((len(last), max_frames + 1, len(inside)))  # rows of the factors
    cholesky[:, 0] = np.where(last[:, None] >= 0, _kernel(frames[last] @ inside.T), 0)
    residual = np.maximum(1 - cholesky[:, 0] ** 2, MIN_RESIDUAL)
    gains, order = np.zeros((len(last), max_frames + 1)), np.zeros((len(last), max_frames), np.int64)
    mask = np.zeros_like(residual)  # minus infinity for chosen frames
    for step in range(max_frames):
        values = relevance[part] + np.log(residual) + mask
        best = values.argmax(axis=1)
        order[:, step] = best
        gains[:, step + 1] = gains[:, step] + values[states, best]
        projected = np.einsum("sp,spn->sn", cholesky[states, : step + 1, best], cholesky[:, : step + 1])
        if step + 1 < max_frames:
            cholesky[:, step + 1] = (kernel[best] - projected) / np.sqrt(residual[states, best])[:, None]
            residual = np.maximum(residual - cholesky[:, step + 1] ** 2, MIN_RESIDUAL)
        mask[states, best] = -np.inf
    return gains, order


def _best_split(sums: Floats, gains: Floats, k: int) -> tuple[Floats, NDArray[np.int64]]:
    """Return, for each number of frames up to the end of a stretch, the best sum of gains, [k + 1], and how many of these
    frames lie before the stretch, [k + 1]."""
    before, inside = np.ogrid[: k + 1, : gains.shape[1]]
    n_chosen = before + inside
    totals = np.full((k + 1, k + 1), -np.inf)  # [n_chosen, before]
    fits = n_chosen <= k
    totals[n_chosen[fits], np.broadcast_to(before, n_chosen.shape)[fits]] = (sums[:, None] + gains)[fits]
    best = totals.argmax(axis=1)
    return totals[np.arange(k + 1), best], best


def _last_position(before: int, n_chosen: int, order: NDArray[np.int64], last: NDArray[np.int64]) -> int:
    return int(order[before, : n_chosen - before].max()) if n_chosen > before else int(last[before])


def _backtrack(steps: list[tuple[NDArray[np.int64], NDArray[np.int64]]], k: int) -> Positions:
    chosen: list[int] = []
    for before, order in reversed(steps):
        chosen += order[before[k], : k - before[k]].tolist()
        k = int(before[k])
    return np.sort(np.array(chosen, np.int64))
