"""Decodes videos in separate processes, ahead of the reader and in its order; a video that fails is a reason, never a substitute.

Decoders hang and crash on real data sets and cannot be stopped from within, so each runs in a process that can be killed. The
workers are fresh interpreters rather than `multiprocessing` ones: a fork would hang decord, and a spawn would import the caller's
main module, and with it all of torch, into every worker.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import TracebackType

import numpy as np

from cache.errors import DecodeError
from pipeline.frames import Clip, SampledClip, Sampling, VideoProbe

CHUNK_FRAMES = 64  # frames sent at once: 9.6 MB at 224 x 224
# Signals that come from outside (the kernel that is out of memory, a batch system, a person): the video is not to blame.
FROM_OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP}


class _KilledError(DecodeError):
    """A decoder process was ended from outside."""


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
    found = installed_decoders()
    if tuple(wanted) != found:
        raise DecodeError(
            f"Decoders: installed are {', '.join(found)}, the configuration asks for {', '.join(wanted) or 'none'}. "
            "Install those versions, or name the installed ones in the configuration (frames are then sampled anew)."
        )


@dataclass(frozen=True)
class DecodeRequest:
    """One video and the frames wanted of it; which these are is decided when its length and rate are known."""

    path: Path
    sampling: Sampling
    clips: tuple[Clip, ...] = (Clip(),)
    image_folder_fps: float | None = None  # needed for folders of images only


@dataclass
class DecodeResult:
    """One video's frames, or the reason why there are none.

    `frames` yields uint8 RGB [<= 64, size, size, 3] chunks of the frames `frame_indices`, in that order, once, and nothing more
    when the next result has been asked for. Iterating raises DecodeError if decoding fails midway; all frames of the video are
    then to be dropped.
    """

    request: DecodeRequest
    reason: str = ""  # "" if the video can be read
    probe: VideoProbe | None = None
    clips: tuple[SampledClip, ...] = ()  # one for each of the request's, with its own frame indices
    frames: Iterator[np.ndarray] = field(default_factory=lambda: iter(()))

    @property
    def frame_indices(self) -> np.ndarray:
        """The frames of all clips, each once, ascending: int64 [N]."""
        return union_of_frames(self.clips)


def union_of_frames(clips: Sequence[SampledClip]) -> np.ndarray:
    return np.unique(np.concatenate([np.empty(0, np.int64), *(clip.frame_indices for clip in clips)]))


# What a worker sends, in this order: Alive at any time; Started, chunks of frames, Finished; or Failed instead of any of these.
@dataclass(frozen=True)
class Alive:
    """Nothing to show yet, but not hanging."""


@dataclass(frozen=True)
class Started:
    probe: VideoProbe
    clips: tuple[SampledClip, ...]


@dataclass(frozen=True)
class Finished:
    pass


@dataclass(frozen=True)
class Failed:
    reason: str
    probe: VideoProbe | None = None


Message = Started | Finished | Failed | np.ndarray


class _Worker:
    """One decoder process, started when first needed and again after it was killed; at most one request at a time."""

    def __init__(self, timeout_seconds: float, size: int) -> None:
        self.timeout_seconds = timeout_seconds
        self.size = size
        self.process: subprocess.Popen[bytes] | None = None
        self.connection: Connection | None = None
        self.heard_at = 0.0

    def assign(self, request: DecodeRequest) -> None:
        for _ in range(2):  # an idle worker may have died unnoticed; a fresh one that dies too is reported by `receive`
            try:
                if self.connection is None:
                    self._start()
                assert self.connection is not None
                self.connection.send(request)
                break
            except OSError:
                self.kill()
        self.heard_at = time.monotonic()

    def _start(self) -> None:
        self.connection, theirs = Pipe()
        command = [sys.executable, "-P", "-m", "pipeline.decode_worker", str(theirs.fileno()), str(self.size)]
        import_path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)
        with theirs:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # never written to: its end tells the worker that we are gone
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": import_path},
                process_group=0,  # Ctrl-C is for us; we end the workers
            )

    def receive(self) -> Message:
        """The next message. Raises DecodeError, with the process killed, if it hangs or has died."""
        while True:
            try:
                if self.connection is None:
                    raise EOFError
                if not self.connection.poll(max(0.0, self.heard_at + self.timeout_seconds - time.monotonic())):
                    self.kill()
                    raise DecodeError(f"timeout: no sign of life from the decoder for {self.timeout_seconds:g} s")
                message = self.connection.recv()
            except (EOFError, OSError):
                status = self.kill(grace_seconds=1)  # to learn its own status
                kind = _KilledError if status in FROM_OUTSIDE else DecodeError
                raise kind(f"crashed: the decoder process ended with status {status}") from None
            self.heard_at = time.monotonic()
            if not isinstance(message, Alive):
                return message

    def kill(self, grace_seconds: float = 0.0) -> int | None:
        """Ends the process if it does not end by itself in time; returns its exit status (negative: a signal's number)."""
        if self.process is None or self.connection is None:
            return None
        self.connection.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(grace_seconds)
        self.process.kill()
        status = self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process = self.connection = None
        return status


class DecoderPool:
    """`workers` decoder processes that give frames of `size` x `size` pixels (aspect ratio not kept, as the model was trained).

    A process that is silent for `timeout_seconds` is killed and replaced, and its video fails with "timeout: ..."; if it dies,
    with "crashed: ..."; one that is killed from outside is replaced and asked once more before. Use as a context manager:
    leaving it ends every process. They also end when this process is killed.
    """

    def __init__(self, workers: int, timeout_seconds: float, size: int = 224) -> None:
        assert workers > 0 and timeout_seconds > 0 and size > 0
        self._workers = [_Worker(timeout_seconds, size) for _ in range(workers)]

    def __enter__(self) -> DecoderPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()

    def decode(self, requests: Iterable[DecodeRequest]) -> Iterator[DecodeResult]:
        """One result for each request, in their order.

        While one is read, the other workers decode the next ones, each up to a chunk ahead; so memory grows neither with the
        length of a video nor with that of the list, which is consumed lazily.
        """
        pending = iter(requests)
        idle = deque(self._workers)
        busy: deque[tuple[_Worker, DecodeRequest]] = deque()
        try:
            while True:
                while idle and (request := next(pending, None)) is not None:
                    idle[0].assign(request)
                    busy.append((idle.popleft(), request))
                if not busy:
                    return
                worker, request = busy[0]
                result = _first_answer(worker, request)
                yield result
                _drain(result.frames)
                idle.append(busy.popleft()[0])
        finally:
            for worker, _ in busy:  # abandoned midway: what these still send belongs to nobody
                worker.kill()


def _first_answer(worker: _Worker, request: DecodeRequest) -> DecodeResult:
    messages = _messages(worker, request)
    try:
        message = next(messages)
    except DecodeError as error:
        return DecodeResult(request, reason=str(error))
    if isinstance(message, Failed):
        return DecodeResult(request, reason=message.reason, probe=message.probe)
    assert isinstance(message, Started)
    return DecodeResult(request, probe=message.probe, clips=message.clips, frames=_chunks(messages))


def _messages(worker: _Worker, request: DecodeRequest) -> Iterator[Message]:
    """What a worker answers. If it is killed from outside, a fresh one is asked once more and what it repeats is left out."""
    n_given, decoder = 0, ""
    for may_ask_again in (True, False):
        try:
            for number in count():
                message = worker.receive()
                if isinstance(message, Started):
                    if decoder and message.probe.decoder != decoder:  # two decoders never share a video's frames
                        raise DecodeError(
                            f"crashed: {decoder} was killed, and now {message.probe.decoder} reads the file"
                        )
                    decoder = message.probe.decoder
                if number >= n_given or isinstance(message, Failed):
                    n_given += 1
                    yield message
                if isinstance(message, Finished | Failed):
                    return
        except _KilledError:
            if not may_ask_again:
                raise
            worker.assign(request)


def _chunks(messages: Iterator[Message]) -> Iterator[np.ndarray]:
    for message in messages:
        if isinstance(message, Failed):
            raise DecodeError(message.reason)
        if isinstance(message, Finished):
            return
        assert isinstance(message, np.ndarray)
        yield message


def _drain(frames: Iterator[np.ndarray]) -> None:
    with suppress(DecodeError):  # the caller left the frames unread and has no use for the failure
        for _ in frames:
            pass
