"""Keyframes by given scores, from any source."""

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
    """Return the positions of at most `k` of T candidate frames, ascending: [<= k] int64. Only bolt may give one twice.

        sevila.select([0.1, 0.9, 0.3, 0.8], "top_k", k=2)  # array([1, 3])

    Args:
        scores: [T], a number a frame in time order, higher is better; tensors (on a GPU, too), arrays or lists. None for a
            selector that looks at none.
        method: a selector, such as top_k, aks, bolt, q_frame, mmr, mdp3 or uniform (docs/selection.md), or another package's;
            or a function that `sevila.extending.selector` has declared one.
        n_frames: T, where nothing else says it.
        vectors: [T, D], one a frame, for a selector that compares frames.
        seconds: [T], where the frames lie in the video.
        moments: [G, 2] in seconds, the true moments, for the oracle.
        question_id: gives the draws of a selector that draws to this question.
        options: the selector's own, such as `t1=0.9` for aks.

    Raises:
        SevilaError: no such selector or option, something that it needs was not given, `k` is below 1, or what is given is
            no number, not finite, or of another shape.
    """
    if not isinstance(method, str | Selector):
        raise SevilaError(
            f"method: a {type(method).__name__}; a selector's name was wanted, or a function that "
            "sevila.extending.selector has declared one"
        )
    chosen_by = method if isinstance(method, Selector) else selector_named(method)
    given = {"scores": scores, "vectors": vectors, "seconds": seconds, "moments": moments}
    arrays = {name: _on_host(values) for name, values in given.items()}
    return chosen_by(Candidates.of(n_frames, str(question_id), **arrays), k, chosen_by.options_from(options))


def _on_host(values: Any) -> Any:
    """Return a tensor as an array, whatever its device and dtype; anything else as it is."""
    return values.detach().double().cpu().numpy() if hasattr(values, "detach") else values
