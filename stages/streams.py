"""Plumbing between arrays and the model: regroup a stream of pieces, and read ahead while the model computes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


def rebatch(pieces: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Join pieces [n, ...] and cut them again into batches of exactly `size` rows, the last one shorter."""
    held: list[np.ndarray] = []
    count = 0
    for piece in pieces:
        while count + len(piece) >= size:
            yield np.concatenate([*held, piece[: size - count]])
            piece, held, count = piece[size - count :], [], 0
        if len(piece):
            held.append(piece)
            count += len(piece)
    if held:
        yield np.concatenate(held)


class Rows:
    """Hands out rows of a stream of batches in portions of other sizes."""

    def __init__(self, batches: Iterable[np.ndarray]) -> None:
        self._batches = iter(batches)
        self._rest: np.ndarray | None = None

    def take(self, n_rows: int) -> Iterator[np.ndarray]:
        """Yield pieces that hold the next `n_rows` rows together."""
        while n_rows > 0:
            rest = self._rest if self._rest is not None and len(self._rest) else next(self._batches)
            yield rest[:n_rows]
            self._rest, n_rows = rest[n_rows:], n_rows - len(rest[:n_rows])


def read_ahead(items: Iterable[Item], depth: int = 2) -> Iterator[Item]:
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

    thread = threading.Thread(target=read, daemon=True)
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
