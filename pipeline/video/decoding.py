"""Decodes videos in separate processes, ahead of the reader and in its order; a video that fails is a reason, never a substitute.

Decoders hang and crash on real data sets and cannot be stopped from within, so each runs in a process that can be killed. The
workers are fresh interpreters rather than `multiprocessing` ones: a fork would hang decord, and a spawn would import the caller's
main module, and with it all of torch, into every worker.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
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

START_SECONDS = 60.0  # of computing, until a process has loaded its libraries
KILL_SECONDS = 5.0  # that a killed process may take to end: one that waits for a dead server ends when it answers
# How a process ends at its own fault. Others come from outside: memory or a disk that fails, a batch system, a person.
CRASHES = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGFPE, -signal.SIGILL}


def installed_decoders() -> tuple[str, str]:
    """Names of the decoders on this machine as identities use them: ("decord-0.6.0", "pyav-18.1.0")."""
    return f"decord-{_version('decord')}", f"pyav-{_version('av')}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def check_decoders(wanted: Sequence[str]) -> None:
    """Raises DecodeError unless exactly the decoders that an identity names are installed: others would give other pixels."""
    installed = installed_decoders()
    if tuple(wanted) != installed:
        raise DecodeError(
            f"Decoders: installed are {', '.join(installed)}, the configuration asks for {', '.join(wanted) or 'none'}. "
            "Install those versions, or name the installed ones in the configuration (frames are then sampled again)."
        )


@dataclass
class DecodeResult:
    """One video's frames, or the error that says why there are none: DecodeError for a bad file, ReadingError for a bad day.

    `frames` yields uint8 RGB [<= 64, size, size, 3] chunks of the frames `frame_indices`, in that order, once, and nothing more
    when the next result has been asked for; each lies in memory that is written to again once the next one has been asked for.
    Iterating raises such an error if decoding fails midway; all frames of the video are then to be dropped.
    """

    request: DecodeRequest
    size: int  # of its frames, in pixels
    error: DecodeError | ReadingError | None = None
    probe: VideoProbe | None = None
    clips: tuple[SampledClip, ...] = ()  # one for each of the request's, with its own frame indices
    # Of all clips, each once, ascending, without those that the request says are held: int64 [N].
    frame_indices: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    frames: Iterator[np.ndarray] = field(default_factory=lambda: iter(()))

    @property
    def reason(self) -> str:
        """Why the video has no frames, as tables hold it; empty where it has."""
        return str(self.error or "")


def union_of_frames(clips: Sequence[SampledClip]) -> np.ndarray:
    """The frames of these clips, each once, ascending: int64 [N]."""
    return np.unique(np.concatenate([np.empty(0, np.int64), *(clip.frame_indices for clip in clips)]))


class _Worker:
    """One decoder process, started when first needed and again after it was killed; at most one request at a time."""

    def __init__(self, timeout_seconds: float, size: int) -> None:
        self.timeout_seconds = timeout_seconds
        self.size = size
        self.process: subprocess.Popen[bytes] | None = None
        self.connection: Connection | None = None
        self.memory: ChunkMemory | None = None
        self.watchdog: Watchdog | None = None
        self.has_started = False
        self.problem: OSError | None = None  # why not even a process could be started
        self._is_closed, self._starting = False, Lock()

    def close(self) -> None:
        """End the process for good, also where another thread is about to start it."""
        with self._starting:
            self._is_closed = True
        self.kill()

    def assign(self, request: DecodeRequest) -> None:
        for _ in range(2):  # an idle worker may have died unnoticed; a fresh one that dies too is reported by `receive`
            try:
                if self.connection is None:
                    with self._starting:
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
        # By import, as part of what this module is part of: messages are pickled with the names of their classes' modules.
        command = [sys.executable, "-P", "-c", f"from {__package__}.decode_worker import main; main()"]
        command += [str(theirs.fileno()), str(memory.fileno()), str(self.size), str(heartbeat_seconds)]
        import_path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)
        with theirs, memory:
            self.memory = ChunkMemory(memory.fileno(), self.size)
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # never written to: it ends when we are gone, which the worker sees
                pass_fds=[theirs.fileno(), memory.fileno()],
                env={**os.environ, "PYTHONPATH": import_path},
                process_group=0,  # Ctrl-C is for us; we end the workers
            )
        self.watchdog = Watchdog(self.process, START_SECONDS)

    def receive(self) -> Message:
        """The next message of the frames. Raises DecodeError or ReadingError if there is none, the process killed if it died."""
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
        status = self.kill(grace_seconds=1)  # to learn its own status
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
        """Ends the process if it does not end by itself in time; returns its exit status (negative: a signal's number)."""
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
            log.warning("decoder process %d does not end yet: it waits for a disk or a server", process.pid)
            return -signal.SIGKILL
        finally:
            assert process.stdin is not None
            process.stdin.close()


class DecoderPool:
    """`workers` decoder processes that give frames of `size` x `size` pixels (aspect ratio not kept, as the model was trained).

    A process that computes for `timeout_seconds` without a sign of life, or neither computes nor answers for 5 times that, is
    killed and replaced, as is one that dies; its video fails. Nothing is tried twice here (see attempts.py). Use as a context
    manager: leaving it ends every process. They also end when this process is killed.
    """

    def __init__(self, workers: int, timeout_seconds: float, size: int = 224) -> None:
        assert workers > 0 and timeout_seconds > 0 and size > 0
        self._workers = [_Worker(timeout_seconds, size) for _ in range(workers)]

    def __enter__(self) -> DecoderPool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers for good."""
        for worker in self._workers:
            worker.close()

    def decode(self, requests: Iterable[DecodeRequest]) -> Iterator[DecodeResult]:
        """One result for each request, in their order.

        While one is read, the workers decode the next ones, each up to two chunks ahead; so memory grows neither with the
        length of a video nor with that of the list, which is consumed lazily.
        """
        pending = iter(requests)
        idle = deque(self._workers)
        busy: deque[tuple[_Worker, DecodeRequest]] = deque()

        def assign() -> None:
            while idle and (request := next(pending, None)) is not None:
                idle[0].assign(request)
                busy.append((idle.popleft(), request))

        def finished() -> None:
            idle.append(busy.popleft()[0])
            assign()

        try:
            assign()
            while busy:
                worker, request = busy[0]
                result = _first_answer(worker, request, finished)
                yield result
                with suppress(DecodeError, ReadingError):  # of what the caller left unread
                    for _ in result.frames:
                        pass
                if busy and busy[0][1] is request:  # it failed
                    finished()
        finally:
            for worker, _ in busy:  # abandoned midway: what these still send belongs to nobody
                worker.kill()


def _first_answer(worker: _Worker, request: DecodeRequest, finished: Callable[[], None]) -> DecodeResult:
    try:
        message = worker.receive()
    except (DecodeError, ReadingError) as error:
        return DecodeResult(request, worker.size, error)
    assert isinstance(message, Started)
    video = message.probe, message.clips, message.frame_indices
    return DecodeResult(request, worker.size, None, *video, _chunks(worker, finished))


def _chunks(worker: _Worker, finished: Callable[[], None]) -> Iterator[np.ndarray]:
    """Yield the chunks, each when the next one is here; `finished` is called before the last one, as the process is idle then."""
    assert worker.memory is not None and worker.connection is not None
    read = partial(_read, worker.memory, worker.connection)
    last: list[Chunk] = []
    try:
        while not isinstance(message := worker.receive(), Finished):
            assert isinstance(message, Chunk)
            yield from read(last)
            last = [message]
    except (DecodeError, ReadingError):
        yield from read(last)
        raise
    finished()
    yield from read(last)


def _read(memory: ChunkMemory, connection: Connection, chunks: Sequence[Chunk]) -> Iterator[np.ndarray]:
    for chunk in chunks:
        yield memory.read(chunk)
        with suppress(OSError):  # the process has ended
            connection.send(ChunkRead())
