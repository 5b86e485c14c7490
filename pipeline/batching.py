"""Batches of rows under a token budget, so that memory is bounded and little of it is padding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np


def tokens_suiting(device: str) -> int:
    """Return the tokens of a forward pass where nobody says how many: a CPU is faster where its caches hold more of them."""
    return 4096 if device == "cpu" else 16384


def token_batches(lengths: Sequence[int], extra_tokens: int, budget_tokens: int) -> list[np.ndarray]:
    """Group rows of similar length so that rows x (longest + `extra_tokens`) stays within `budget_tokens`.

    Args:
        lengths: text tokens of each row.
        extra_tokens: tokens every row has besides its text (prefixes, visual tokens).
        budget_tokens: padded tokens a batch may hold; a single row may exceed it.

    Returns:
        int64 arrays of row numbers, every row in exactly one; rows in ascending length, ties in row order.
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
    """Cut items 0, 1, ... into runs of consecutive ones whose sizes add up to at most `limit_bytes`, at least one each."""
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
    """Return where each key stands in columns whose equal rows are neighbours: key (a tuple of several columns') -> slice."""
    if not len(keys[0]):
        return {}
    changes = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    starts = [0, *(np.flatnonzero(changes) + 1).tolist(), len(keys[0])]
    names = keys[0] if len(keys) == 1 else list(zip(*keys, strict=True))
    return {names[start]: slice(start, end) for start, end in pairwise(starts)}
