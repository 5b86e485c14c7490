"""Normalisation of scores and vectors, independent of the scorer."""

import numpy as np
from numpy.typing import ArrayLike

from pipeline.selection.selector import Floats


def min_max(scores: ArrayLike) -> Floats:
    """Return `scores` [T] scaled linearly to 0 to 1; all 0 if they are equal."""
    values = np.asarray(scores, np.float64)
    if not len(values) or values.min() == values.max():
        return np.zeros(len(values))
    if values.max() / 2 - values.min() / 2 > 8e307:
        values = values / 4  # or their range would be infinite
    shifted: Floats = values - values.min()
    return shifted / shifted.max()


def unit_vectors(vectors: ArrayLike) -> Floats:
    """Return `vectors` [T, D] scaled to length 1; zero vectors stay zero."""
    values = np.asarray(vectors, np.float64)
    lengths = _lengths(values)
    if ((lengths < 1e-100) | (lengths > 1e100)).any():  # or squares may be 0 or infinite
        values = values / np.maximum(np.abs(values).max(axis=1, keepdims=True, initial=0), np.finfo(float).tiny)
        lengths = _lengths(values)
    return np.divide(values, lengths, out=np.zeros_like(values), where=lengths > 0)


def _lengths(vectors: Floats) -> Floats:
    with np.errstate(over="ignore", under="ignore"):
        return np.sqrt(np.einsum("td,td->t", vectors, vectors))[:, None]
