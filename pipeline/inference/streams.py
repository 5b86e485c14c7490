"""Iteration that overlaps with the model's computation: reading ahead, and delayed waiting for the device."""

from __future__ import annotations

import queue
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextvars import copy_context
from typing import TypeVar

Item = TypeVar("Item")

# A reading thread releases the interpreter's lock at every frame, and beside a busy thread waits 5 ms for it by default.
sys.setswitchinterval(0.0005)


def read_ahead(items: Iterable[Item], depth: int = 2) -> Generator[Item, None, None]:
    """Yield the items of an iterable, which runs in a thread up to `depth` items ahead; its errors are raised here."""
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

    # In the caller's context, for progress and logging.
    thread = threading.Thread(target=copy_context().run, args=(read,), daemon=True)
    thread.start()
    try:
        while True:
            is_item, value = ready.get()
            if not is_item:
                if isinstance(value, BaseException):
                    raise value
                return
            yield value  # type: ignore[misc]
    finally:
        stop.set()
        if thread is not threading.current_thread():  # which can collect a generator that an error has left unfinished
            thread.join()


def behind(items: Iterable[Item], depth: int = 1) -> Iterator[Item]:
    """Yield the items `depth` items later, so that the computation that an item started overlaps with the next ones."""
    started: deque[Item] = deque()
    for item in items:
        started.append(item)
        if len(started) > depth:
            yield started.popleft()
    yield from started
