"""Batches of rows under a token budget, to bound memory and minimise padding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np


def tokens_suiting(device: str) -> int:
    """Return the default number of tokens in a forward pass: the fastest on an H100, and less on a CPU, for its caches."""
    return 4096 if device == "cpu" else 32768


def token_batches(lengths: Sequence[int], extra_tokens: int, budget_tokens: int) -> list[np.ndarray]:
    """Group rows of similar length so that rows x (longest + `extra_tokens`) stays within `budget_tokens`.

    Args:
        lengths: text tokens of each row.
        extra_tokens: tokens of every row besides its text (prefixes, visual tokens).
        budget_tokens: maximum number of tokens in a batch, with padding; a single row may exceed it.

    Returns:
        int64 arrays that partition the row numbers; rows in ascending length, ties in row order.
    """
    order = np.argsort(np.asarray(lengths, dtype=np.int64), kind="stable")
    batches: list[np.ndarray] = []
    start = 0
    for end in range(1, len(order) + 1):
        # Ascending lengths: the next row would be the longest of the batch.
        if end == len(order) or (end + 1 - start) * (lengths[order[end]] + extra_tokens) > budget_tokens:
            batches.append(order[start:end])
            start = end
    return batches


def cut(sizes_bytes: Sequence[int], limit_bytes: int) -> list[list[int]]:
    """Cut items 0, 1, ... into runs of consecutive items with a total size of at most `limit_bytes`, or of one item."""
    runs: list[list[int]] = []
    total = 0
    for item, size in enumerate(sizes_bytes):
        if not runs or total + size > limit_bytes:
            runs.append([])
            total = 0
        runs[-1].append(item)
        total += size
    return runs


def runs_of(*keys: np.ndarray) -> dict[Any, slice]:
    """Return the slice of rows of each key, a tuple if there are several columns; rows with equal keys must be adjacent."""
    if not len(keys[0]):
        return {}
    changes = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    starts = [0, *(np.flatnonzero(changes) + 1).tolist(), len(keys[0])]
    firsts = (key[starts[:-1]] for key in keys)
    names = next(firsts) if len(keys) == 1 else zip(*firsts, strict=True)
    return {name: slice(start, end) for name, (start, end) in zip(names, pairwise(starts), strict=True)}
