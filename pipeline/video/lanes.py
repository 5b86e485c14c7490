"""Parallel decoding of videos: each decoder process has a thread that writes its frames, so that no video blocks another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextvars import copy_context
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Generic, NamedTuple, TypeVar

from pipeline.video.decoding import DecodeRequest, DecodeResult, DecoderProcess

Outcome = TypeVar("Outcome")
REQUESTS_AHEAD = 1  # requests that are ready before a decoder is free, as preparing one takes the caller some time


class KeyedRequest(NamedTuple):
    """A request with the caller's key."""

    key: str
    request: DecodeRequest


class DecoderPool:
    """Decoder processes that are kept from one call of `decode` to the next; leaving the context manager ends them.

    Only as many are started as there are videos to decode at a time.
    """

    def __init__(self, processes: int, timeout_seconds: float, size: int) -> None:
        """Args: as for `DecoderProcess`; `processes` is their number."""
        self.processes = processes
        self._decoders = [DecoderProcess(timeout_seconds, size) for _ in range(processes)]

    def __enter__(self) -> DecoderPool:
        return self

    def __exit__(self, *error: object) -> None:
        for decoder in self._decoders:
            decoder.close()

    def renew(self) -> None:
        """End the processes; the next videos are decoded by new ones."""
        for decoder in self._decoders:
            decoder.kill()

    def decode(
        self, requests: Iterator[KeyedRequest], write: Callable[[str, DecodeResult], Outcome]
    ) -> Iterator[Outcome]:
        """Yield the outcome of `write` for each request, in the order in which they finish.

        Args:
            requests: advanced in the caller's thread only, `REQUESTS_AHEAD` further than decoders are free.
            write: called with a request's key and its result in the decoder's thread; reads the frames.

        Raises:
            Exception: any error of `write` or `requests`; decoding stops, and the pool is closed.
        """
        events: SimpleQueue[_LaneEvent] = SimpleQueue()
        ready: SimpleQueue[KeyedRequest | None] = SimpleQueue()  # None for each lane at the end
        lanes = [_Lane(decoder, write, ready, events) for decoder in self._decoders]
        n_running = len(lanes)
        try:
            for lane in lanes:
                lane.start()
            for _ in range(n_running + REQUESTS_AHEAD):
                ready.put(next(requests, None))
            while n_running:
                event = events.get()
                if event.error is not None:
                    raise event.error
                if event.has_taken:
                    ready.put(next(requests, None))
                n_running -= event.is_last
                yield from event.outcomes
        finally:
            if n_running:
                self.__exit__()
            for _ in lanes:
                ready.put(None)
            for lane in lanes:
                lane.join()


class _LaneEvent(NamedTuple):
    """What a lane reports: it has taken a request, written a video, failed, or ended."""

    has_taken: bool = False
    outcomes: tuple[Any, ...] = ()
    error: BaseException | None = None
    is_last: bool = False


class _Lane(Generic[Outcome]):
    """The thread of a decoder process, which takes requests and writes frames."""

    def __init__(
        self,
        decoder: DecoderProcess,
        write: Callable[[str, DecodeResult], Outcome],
        ready: SimpleQueue[KeyedRequest | None],
        events: SimpleQueue[_LaneEvent],
    ) -> None:
        self._decoder, self._write, self._ready, self._events = decoder, write, ready, events
        self._keys: deque[str] = deque()  # of the video that is written, and of the next one
        self._thread = Thread(target=copy_context().run, args=(self._work,), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        if self._thread.ident is not None:
            self._thread.join()

    def _requests(self) -> Iterator[DecodeRequest | None]:
        while True:
            try:
                keyed = self._ready.get(block=not self._keys)  # a video that is decoded is written first
            except Empty:
                yield None
                continue
            if keyed is None:
                return
            self._events.put(_LaneEvent(has_taken=True))
            self._keys.append(keyed.key)
            yield keyed.request

    def _work(self) -> None:
        try:
            for result in self._decoder.decode(self._requests()):
                outcome = self._write(self._keys[0], result)
                self._keys.popleft()
                self._events.put(_LaneEvent(outcomes=(outcome,)))
            self._events.put(_LaneEvent(is_last=True))
        except BaseException as error:
            self._events.put(_LaneEvent(error=error))
