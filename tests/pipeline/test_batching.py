from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipeline.batching import cut, token_batches


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
