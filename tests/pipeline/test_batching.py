from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batching import cut, token_batches
from pipeline.inference.asked_videos import cut_by_pairs, n_pairs_of


@given(st.lists(st.integers(1, 100), max_size=60), st.integers(0, 50), st.integers(1, 600))
def test_batches_contain_every_row_once_within_the_budget(lengths: list[int], extra: int, budget: int) -> None:
    batches = token_batches(lengths, extra, budget)
    assert sorted(row for batch in batches for row in batch.tolist()) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        assert len(batch) == 1 or len(batch) * (longest + extra) <= budget


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60), st.integers(1, 600))
def test_adjacent_batches_cannot_be_merged(lengths: list[int], budget: int) -> None:
    batches = token_batches(lengths, 0, budget)
    for batch, following in pairwise(batches):
        assert (len(batch) + 1) * lengths[following[0]] > budget


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 100))
def test_cut_keeps_order_and_limit(sizes: list[int], limit: int) -> None:
    runs = cut(sizes, limit)
    assert [item for run in runs for item in run] == list(range(len(sizes)))
    assert all(len(run) == 1 or sum(sizes[item] for item in run) <= limit for run in runs)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30)), max_size=20), st.integers(1, 60))
def test_questions_are_cut_in_order_within_the_limit_of_pairs(videos: list[tuple[int, int]], limit: int) -> None:
    n_frames, n_questions = [n for n, _ in videos], [n for _, n in videos]
    shards = cut_by_pairs(range(len(videos)), [[n] * times for n, times in videos], limit)
    asked: list[list[tuple[int, int]]] = []
    for shard in shards:
        asked.append([])
        for item in shard:
            number, *part = [item] if isinstance(item, int) else item
            asked[-1] += [
                (number, question) for question in range(n_questions[number])[slice(*part) if part else slice(None)]
            ]
    every = [(number, question) for number, n in enumerate(n_questions) for question in range(n)]
    assert [pair for shard in asked for pair in shard] == every
    assert all(len(shard) == 1 or sum(n_frames[number] for number, _ in shard) <= limit for shard in asked)


class Tables:
    """An artifact of one table."""

    record = SimpleNamespace(config={"frames": 4})

    def __init__(self, **columns: list[Any]) -> None:
        self._columns = columns

    def columns(self, table: str, *names: str) -> dict[str, np.ndarray]:
        return {name: np.array(self._columns[name], object) for name in names}

    def column(self, table: str, name: str) -> list[Any]:
        return self._columns[name]


def test_pairs_of_a_video_with_many_are_those_of_its_clips() -> None:
    questions: Any = Tables(video_id=["a", "b", "a", "c"], clip_id=["x", "", "y", ""])
    frames: Any = Tables(video_id=["a"] * 5 + ["b"] * 4, clip_id=["x", "x", "y", "y", "y", "", "", "", ""])
    features: Any = Tables(video_id=["a", "b", "c"], n_frames=[5, 1, 0])  # b's clip repeats its frame
    assert n_pairs_of(questions, frames, features, 10) == [[5, 5], [4], [0]]
    assert n_pairs_of(questions, frames, features, 9) == [[2, 3], [4], [0]]
