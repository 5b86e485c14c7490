"""Selecting keyframes by scores from any source."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cache.errors import SevilaError
from pipeline.selection.registry import selector_named
from pipeline.selection.selector import Candidates, Selector


def select(
    scores: ArrayLike | None,
    method: str | Selector,
    k: int,
    *,
    n_frames: int | None = None,
    vectors: ArrayLike | None = None,
    seconds: ArrayLike | None = None,
    moments: ArrayLike | None = None,
    question_id: str = "",
    **options: Any,
) -> NDArray[np.int64]:
    """Return the positions of at most `k` of T candidate frames, ascending: [<= k] int64. Only bolt may repeat positions.

        sevila.select([0.1, 0.9, 0.3, 0.8], "top_k", k=2)  # array([1, 3])

    Args:
        scores: [T], one number per frame in time order, higher is better; a tensor (CPU or GPU), array or list. None for a
            selector without scores.
        method: name of a selector, such as top_k, aks, bolt, q_frame, mmr, mdp3 or uniform (docs/selection.md), or of one of
            another package; or a function decorated with `sevila.extending.selector`.
        n_frames: T, if no array gives it.
        vectors: [T, D], one per frame, for selectors that compare frames.
        seconds: [T], times of the frames in the video.
        moments: [G, 2] in seconds, the true moments, for the oracle.
        question_id: seeds the random draws of a selector, together with its seed.
        options: the selector's own options, such as `t1=0.9` for aks.

    Raises:
        SevilaError: the selector or an option is unknown, a required input is missing, `k` is below 1, or values are not
            numeric, not finite, or have a wrong shape.
    """
    if not isinstance(method, str | Selector):
        raise SevilaError(
            f"method: a {type(method).__name__}; expected the name of a selector, or a function decorated with "
            "sevila.extending.selector"
        )
    selector = method if isinstance(method, Selector) else selector_named(method)
    inputs = {"scores": scores, "vectors": vectors, "seconds": seconds, "moments": moments}
    arrays = {name: _on_host(values) for name, values in inputs.items()}
    return selector(Candidates.of(n_frames, str(question_id), **arrays), k, selector.options_from(options))


def _on_host(values: Any) -> Any:
    """Return a tensor of any device and dtype as an array; other values unchanged."""
    return values.detach().double().cpu().numpy() if hasattr(values, "detach") else values
