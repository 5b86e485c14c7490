"""Decoding of videos in a separate process, in order and ahead of the reader; a failed video has a reason, never a substitute.

Decoders hang and crash on real data sets and cannot be stopped from within, so each runs in a process that can be killed. The
processes are fresh interpreters instead of `multiprocessing` ones: decord hangs after a fork, and a spawn imports the caller's
main module, and with it torch, into every process. For several processes side by side see lanes.py.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, islice
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from threading import Lock

import numpy as np

from cache.errors import DecodeError, DecoderDeathError, HalfwayError, ReadingError
from pipeline.video.chunk_memory import Chunk, ChunkMemory, ChunkRead, chunk_file
from pipeline.video.decode_messages import Alive, BytesRead, DecodeRequest, Failed, Finished, Message, Started, Trouble
from pipeline.video.frames import SampledClip, VideoProbe
from pipeline.video.watchdog import Watchdog

log = logging.getLogger("sevila")

START_SECONDS = 60.0  # timeout, in CPU seconds, until a process has loaded its libraries
KILL_SECONDS = 5.0  # wait for a killed process; one that waits for a dead server ends only when that answers
# Exit statuses that a decoder's bug causes. Other signals come from outside: a lack of memory, a batch system, a user.
CRASHES = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGFPE, -signal.SIGILL}


def installed_decoders() -> tuple[str, str]:
    """Return the installed decoders as identities name them: ("decord-0.6.0", "pyav-18.1.0")."""
    return f"decord-{_version('decord')}", f"pyav-{_version('av')}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def check_decoders(configured: Sequence[str]) -> None:
    """Raise DecodeError unless exactly the configured decoders are installed: other versions may give other pixels."""
    installed = installed_decoders()
    if tuple(configured) != installed:
        raise DecodeError(
            f"Decoders: installed are {', '.join(installed)}, the configuration asks for {', '.join(configured) or 'none'}. "
            "Install those versions, or name the installed ones in the configuration (frames are then sampled again)."
        )


@dataclass
class DecodeResult:
    """One video's frames, or the error why there are none: DecodeError for the file's fault, ReadingError for the machine's.

    `frames` yields the frames `frame_indices` in this order, once, as uint8 RGB chunks [<= 64, size, size, 3]. A chunk is valid
    until the next one is requested, the iterator until the next result is. Iterating raises one of these errors if decoding
    fails midway; the caller must then drop all frames of the video.
    """

    request: DecodeRequest
    size: int  # height and width of frames, in pixels
    error: DecodeError | ReadingError | None = None
    probe: VideoProbe | None = None
    clips: tuple[SampledClip, ...] = ()  # one for each of the request's clips
    # Union over all clips without the request's `held` frames: int64 [N], ascending.
    frame_indices: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    frames: Iterator[np.ndarray] = field(default_factory=lambda: iter(()))

    @property
    def reason(self) -> str:
        """Why the video has no frames, as stored in tables; empty if it has frames."""
        return str(self.error or "")


class DecoderProcess:
    """A decoder process for frames of `size` x `size` pixels (aspect ratio not kept, as the model was trained).

    It is started on demand, also after it was killed, and kept from one `decode` to the next. If it computes for
    `timeout_seconds` without a message, is idle for 5 times that, or dies, it is replaced, and its video fails without a retry
    (see attempts.py). Leaving the context manager ends it, as does the end of this process.
    """

    def __init__(self, timeout_seconds: float, size: int = 224) -> None:
        assert timeout_seconds > 0 and size > 0
        self.timeout_seconds = timeout_seconds
        self.size = size
        self.process: subprocess.Popen[bytes] | None = None
        self.connection: Connection | None = None
        self.memory: ChunkMemory | None = None
        self.watchdog: Watchdog | None = None
        self.has_started = False
        self.problem: OSError | None = None  # why no process could be started
        self._is_closed, self._start_lock = False, Lock()

    def __enter__(self) -> DecoderProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process permanently, also if another thread is about to start it."""
        with self._start_lock:
            self._is_closed = True
        self.kill()

    def decode(self, requests: Iterable[DecodeRequest | None]) -> Iterator[DecodeResult]:
        """Yield one result for each request, in order.

        While one is read, the process decodes up to two chunks ahead, or the next one. Requests are consumed lazily, so that
        memory depends neither on their number nor on the lengths of videos. None among them: the next one is not ready yet, and
        is asked for when the last result was read.
        """
        pending, assigned = enumerate(requests), list[tuple[int, DecodeRequest]]()  # at most one

        def assign(number: int, request: DecodeRequest | None) -> None:
            if request is not None:
                self._assign(request)
                assigned.append((number, request))

        def finished() -> None:
            assigned.clear()
            for numbered in islice(pending, 1):
                assign(*numbered)

        try:
            for numbered in pending:
                assign(*numbered)
                while assigned:
                    number, request = assigned[0]
                    result = self._first_result(request, finished)
                    yield result
                    with suppress(DecodeError, ReadingError):  # skip what the caller has not read
                        for _ in result.frames:
                            pass
                    if assigned and assigned[0][0] == number:  # it failed
                        finished()
        finally:
            if assigned:  # the caller has stopped early: discard what the process still sends
                self.kill()

    def _first_result(self, request: DecodeRequest, finished: Callable[[], None]) -> DecodeResult:
        """Return a result once the message after its first chunk is here; if that is the last one, the next video is begun."""
        try:
            started = self._receive()
            assert isinstance(started, Started)
            chunks = self._chunks(finished)
            first_chunk = list(islice(chunks, 1))
        except (DecodeError, ReadingError) as error:
            return DecodeResult(request, self.size, error)
        video = started.probe, started.clips, started.frame_indices
        return DecodeResult(request, self.size, None, *video, chain(first_chunk, chunks))

    def _chunks(self, finished: Callable[[], None]) -> Iterator[np.ndarray]:
        """Yield each chunk when the next one has arrived; call `finished` before the last one, as the process is idle then."""
        assert self.memory is not None and self.connection is not None
        read = partial(_read, self.memory, self.connection)
        last: list[Chunk] = []
        try:
            while not isinstance(message := self._receive(), Finished):
                assert isinstance(message, Chunk)
                yield from read(last)
                last = [message]
        except (DecodeError, ReadingError):
            yield from read(last)
            raise
        finished()
        yield from read(last)

    def _assign(self, request: DecodeRequest) -> None:
        for _ in range(2):  # an idle process may have died unnoticed; if a fresh one dies too, `_receive` reports it
            try:
                if self.connection is None:
                    with self._start_lock:
                        if self._is_closed:
                            raise OSError(errno.ECANCELED, "the decoders are closed")
                        self._start()
                assert self.connection is not None and self.watchdog is not None
                self.watchdog.reset(self.timeout_seconds if self.has_started else START_SECONDS)
                self.watchdog.has_read_bytes = False
                self.connection.send(request)
                break
            except OSError as error:
                if self.kill() is None:
                    self.problem = error

    def _start(self) -> None:
        self.watchdog, self.has_started, self.problem = None, False, None
        self.connection, theirs = Pipe()
        memory = chunk_file(self.size)
        heartbeat_seconds = min(1.0, self.timeout_seconds / 4)
        # By import, not as a script: messages are pickled with the names of their classes' modules.
        command = [sys.executable, "-P", "-c", f"from {__package__}.decode_worker import main; main()"]
        command += [str(theirs.fileno()), str(memory.fileno()), str(self.size), str(heartbeat_seconds)]
        import_path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)
        with theirs, memory:
            self.memory = ChunkMemory(memory.fileno(), self.size)
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # never written to: the worker exits when it closes
                pass_fds=[theirs.fileno(), memory.fileno()],
                env={**os.environ, "PYTHONPATH": import_path},
                process_group=0,  # this process alone receives Ctrl-C and ends the workers
            )
        self.watchdog = Watchdog(self.process, START_SECONDS)

    def _receive(self) -> Message:
        """Return the next message about frames. Raises DecodeError or ReadingError if the video fails or the process dies."""
        while True:
            try:
                if self.connection is None or self.watchdog is None:
                    raise EOFError
                with self.watchdog.watching():
                    message = self.connection.recv()
            except (EOFError, OSError):
                raise self._death() from None
            self.watchdog.reset(self.timeout_seconds)
            self.has_started = True
            if isinstance(message, Failed):
                raise HalfwayError(message.reason) if message.is_halfway else DecodeError(message.reason)
            if isinstance(message, Trouble):
                raise ReadingError(message.reason)
            if isinstance(message, BytesRead):
                self.watchdog.has_read_bytes = True
            elif not isinstance(message, Alive):
                return message

    def _death(self) -> DecodeError | ReadingError:
        status = self.kill(grace_seconds=1)  # time to exit by itself, for its own status
        if status is None or not self.has_started:
            why = f": {self.problem.strerror}" if self.problem else ""
            return ReadingError(f"its decoder process does not start{why}")
        assert self.watchdog is not None
        if self.watchdog.verdict is not None:
            return self.watchdog.verdict
        if status <= 0 and status not in CRASHES:
            return ReadingError(
                f"its decoder process was killed from outside ({f'signal {-status}' if status else 'status 0'})"
            )
        if self.watchdog.memory_is_limited:
            return ReadingError(f"its decoder process ended with status {status}: too little memory? (see `ulimit -v`)")
        return DecoderDeathError(f"crashed: the decoder process ended with status {status}")

    def kill(self, grace_seconds: float = 0.0) -> int | None:
        """Kill the process unless it exits in time; return its exit status (negative: a signal), None if there was none.

        Another one is started for the next request.
        """
        if self.connection is not None:
            self.connection.close()
        if self.watchdog is not None:
            self.watchdog.close()
        process, self.process, self.connection = self.process, None, None
        if process is None:
            return None
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_seconds)
        process.kill()
        try:
            return process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("decoder process %d has not ended yet; it waits for a disk or a server", process.pid)
            return -signal.SIGKILL
        finally:
            assert process.stdin is not None
            process.stdin.close()


def _read(memory: ChunkMemory, connection: Connection, chunks: Sequence[Chunk]) -> Iterator[np.ndarray]:
    for chunk in chunks:
        yield memory.read(chunk)
        with suppress(OSError):  # the process has ended
            connection.send(ChunkRead())
