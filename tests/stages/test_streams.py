import threading
from collections.abc import Iterator

import pytest

from pipeline.inference.streams import read_ahead


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
    before = threading.active_count()
    items = read_ahead(iter(range(10**9)))
    assert next(items) == 0
    items.close()
    assert threading.active_count() == before
