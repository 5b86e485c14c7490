import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.streams import Rows, read_ahead, rebatch


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 7))
def test_rebatched_rows_are_the_same_rows_in_full_batches(sizes: list[int], batch: int) -> None:
    rows = np.arange(sum(sizes))
    pieces = np.split(rows, np.cumsum(sizes)[:-1]) if sizes else []
    batches = list(rebatch(iter(pieces), batch))
    assert [len(each) for each in batches[:-1]] == [batch] * (len(batches) - 1)
    assert np.concatenate([*batches, rows[:0]]).tolist() == rows.tolist()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.data())
def test_taken_rows_follow_each_other(sizes: list[int], data: st.DataObject) -> None:
    rows = np.arange(sum(sizes))
    stream = Rows(np.split(rows, np.cumsum(sizes)[:-1]))
    taken: list[int] = []
    while len(taken) < len(rows):
        wanted = data.draw(st.integers(1, len(rows) - len(taken)))
        portion = [int(row) for piece in stream.take(wanted) for row in piece]
        assert len(portion) == wanted
        taken += portion
    assert taken == rows.tolist()


def test_reading_ahead_gives_the_items_in_order() -> None:
    assert list(read_ahead(iter(range(50)))) == list(range(50))


def test_error_while_reading_ahead_arrives_after_the_items_before_it() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("disk gone")

    items = read_ahead(broken())
    assert next(items) == 1
    with pytest.raises(OSError, match="disk gone"):
        next(items)


def test_reader_thread_ends_when_the_consumer_stops_early() -> None:
    items = read_ahead(iter(range(10**9)))
    assert next(items) == 0
    items.close()
    assert threading.active_count() == 1
