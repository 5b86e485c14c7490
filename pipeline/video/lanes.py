"""Parallel decoding of videos: each decoder process has a thread that writes its frames, so that no video blocks another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextvars import copy_context
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, NamedTuple, TypeVar

from pipeline.video.decoding import DecodeRequest, DecodeResult, DecoderPool

Outcome = TypeVar("Outcome")


class KeyedRequest(NamedTuple):
    """A request with the caller's key."""

    key: str
    request: DecodeRequest


def decode_side_by_side(
    processes: int,
    timeout_seconds: float,
    size: int,
    requests: Iterator[KeyedRequest],
    write: Callable[[str, DecodeResult], Outcome],
) -> Iterator[Outcome]:
    """Yield the outcome of `write` for each request, in the order in which they finish.

    Args:
        processes: number of decoder processes.
        timeout_seconds, size: as for `DecoderPool`.
        requests: advanced in the caller's thread only, when a decoder is free.
        write: called with a request's key and its result in the decoder's thread; reads the frames.

    Raises:
        Exception: any error of `write` or `requests`; decoding stops.
    """
    events: SimpleQueue[_Lane[Outcome] | _LaneOutcome[Outcome]] = SimpleQueue()
    lanes = [_Lane(DecoderPool(1, timeout_seconds, size), write, events) for _ in range(processes)]
    n_running = len(lanes)
    try:
        for lane in lanes:
            lane.start()
        while n_running:
            event = events.get()
            if isinstance(event, _Lane):
                event.requests.put(next(requests, None))
                continue
            if event.error is not None:
                raise event.error
            n_running -= event.is_last
            yield from event.outcomes
    finally:
        for lane in lanes:
            lane.stop()


class _LaneOutcome(NamedTuple, Generic[Outcome]):
    """The outcome of one video, or the end of a lane."""

    outcomes: tuple[Outcome, ...] = ()
    error: BaseException | None = None
    is_last: bool = False


class _Lane(Generic[Outcome]):
    """A decoder process and the thread that writes its frames."""

    def __init__(
        self, decoders: DecoderPool, write: Callable[[str, DecodeResult], Outcome], events: SimpleQueue[Any]
    ) -> None:
        self.requests: SimpleQueue[KeyedRequest | None] = SimpleQueue()
        self._decoders, self._write, self._events = decoders, write, events
        self._keys: deque[str] = deque()
        self._thread = Thread(target=copy_context().run, args=(self._work,), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the process and wait for the thread."""
        self.requests.put(None)
        self._decoders.close()
        if self._thread.ident is not None:
            self._thread.join()

    def _requests(self) -> Iterator[DecodeRequest]:
        while True:
            self._events.put(self)
            keyed = self.requests.get()
            if keyed is None:
                return
            self._keys.append(keyed.key)
            yield keyed.request

    def _work(self) -> None:
        try:
            for result in self._decoders.decode(self._requests()):
                self._events.put(_LaneOutcome((self._write(self._keys.popleft(), result),)))
            self._events.put(_LaneOutcome(is_last=True))
        except BaseException as error:
            self._events.put(_LaneOutcome(error=error))
