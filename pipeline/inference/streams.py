"""Work that goes on beside a model's: reading ahead, and waiting for the device a little later."""

from __future__ import annotations

import queue
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextvars import copy_context
from typing import TypeVar

Item = TypeVar("Item")

# A thread that reads gives up the interpreter's lock at every frame, and by default waits 5 ms for it beside a busy one.
sys.setswitchinterval(0.0005)


def read_ahead(items: Iterable[Item], depth: int = 2) -> Generator[Item, None, None]:
    """Yield the items of an iterable that is run by another thread, up to `depth` items ahead; its errors arrive here."""
    ready: queue.Queue[tuple[bool, Item | BaseException | None]] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(entry: tuple[bool, Item | BaseException | None]) -> None:
        while not stop.is_set():
            try:
                return ready.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def read() -> None:
        try:
            for item in items:
                put((True, item))
                if stop.is_set():
                    return
            put((False, None))
        except BaseException as error:
            put((False, error))

    # In our context: progress is shown, and lines are logged, as if they were ours.
    thread = threading.Thread(target=copy_context().run, args=(read,), daemon=True)
    thread.start()
    try:
        while True:
            more, value = ready.get()
            if not more:
                if isinstance(value, BaseException):
                    raise value
                return
            yield value  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()


def behind(items: Iterable[Item], depth: int = 1) -> Iterator[Item]:
    """Yield each item when `depth` more have begun: what an item waits for goes on while they do."""
    begun: deque[Item] = deque()
    for item in items:
        begun.append(item)
        if len(begun) > depth:
            yield begun.popleft()
    yield from begun
