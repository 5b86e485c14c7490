"""Decoding several videos side by side: each decoder process has a thread that writes its frames; no video holds another."""

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
    """A request, and what the caller calls it."""

    key: str
    request: DecodeRequest


def decode_side_by_side(
    processes: int,
    timeout_seconds: float,
    size: int,
    requests: Iterator[KeyedRequest],
    write: Callable[[str, DecodeResult], Outcome],
) -> Iterator[Outcome]:
    """Yield what `write` returns for each request, in the order in which they are finished.

    Args:
        processes: how many decode; `timeout_seconds` and `size` as for `DecoderPool`.
        requests: advanced by the caller's thread alone, when a decoder wants the next one.
        write: is called with a request's key and its result, in the thread of its decoder, and reads the frames.

    Raises:
        Exception: what `write` or `requests` raise; nothing else is decoded then.
    """
    events: SimpleQueue[_Lane[Outcome] | _LaneOutcome[Outcome]] = SimpleQueue()
    lanes = [_Lane(DecoderPool(1, timeout_seconds, size), write, events) for _ in range(processes)]
    n_at_work = len(lanes)
    try:
        for lane in lanes:
            lane.start()
        while n_at_work:
            event = events.get()
            if isinstance(event, _Lane):
                event.answers.put(next(requests, None))
                continue
            if event.error is not None:
                raise event.error
            n_at_work -= event.is_last
            yield from event.outcomes
    finally:
        for lane in lanes:
            lane.stop()


class _LaneOutcome(NamedTuple, Generic[Outcome]):
    """What one video came to; or the end of a lane."""

    outcomes: tuple[Outcome, ...] = ()
    error: BaseException | None = None
    is_last: bool = False


class _Lane(Generic[Outcome]):
    """A decoder process, and the thread that reads and writes what it decodes."""

    def __init__(
        self, decoders: DecoderPool, write: Callable[[str, DecodeResult], Outcome], events: SimpleQueue[Any]
    ) -> None:
        self.answers: SimpleQueue[KeyedRequest | None] = SimpleQueue()
        self._decoders, self._write, self._events = decoders, write, events
        self._keys: deque[str] = deque()
        self._thread = Thread(target=copy_context().run, args=(self._work,), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the process, and wait for the thread, which then has no more than a failed video to write."""
        self.answers.put(None)
        self._decoders.close()
        if self._thread.ident is not None:
            self._thread.join()

    def _requests(self) -> Iterator[DecodeRequest]:
        while True:
            self._events.put(self)
            answer = self.answers.get()
            if answer is None:
                return
            self._keys.append(answer.key)
            yield answer.request

    def _work(self) -> None:
        try:
            for result in self._decoders.decode(self._requests()):
                self._events.put(_LaneOutcome((self._write(self._keys.popleft(), result),)))
            self._events.put(_LaneOutcome(is_last=True))
        except BaseException as error:
            self._events.put(_LaneOutcome(error=error))
