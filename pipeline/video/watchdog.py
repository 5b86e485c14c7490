"""A watchdog that kills a hanging process, measured in CPU time rather than by the clock.

The whole machine may be paused for minutes (batch scheduler, virtual machine) or overloaded. A process hangs if it uses much CPU
time without a message; a process that neither computes nor sends messages waits for a disk or a server.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from cache.errors import DecoderDeathError, ReadingError
from cache.lazy import Lazy

if TYPE_CHECKING:
    import psutil
else:
    psutil = Lazy("psutil")

IDLE_FACTOR = 5  # idle limit as a multiple of the timeout


class Watchdog:
    """Kills a process that has computed for `timeout_seconds`, or been idle for 5 times that, since the last `reset`.

    It checks only within `watching`.

    Attributes:
        verdict: why the process was killed; None if it was not.
        memory_is_limited: whether a limit can make the process's allocations fail, at which decoders crash.
        has_read_bytes: set by the caller once the process has read the whole file.
    """

    def __init__(self, process: subprocess.Popen[bytes], timeout_seconds: float) -> None:
        self.verdict: DecoderDeathError | ReadingError | None = None
        self.memory_is_limited = False
        self.has_read_bytes = False
        self._process = process
        self._usage = psutil.Process(process.pid)
        self._cpu_seconds = 0.0
        self._lock = threading.Lock()
        self._is_watched, self._is_over = threading.Event(), threading.Event()
        self.reset(timeout_seconds)
        threading.Thread(target=self._watch, daemon=True).start()

    def reset(self, timeout_seconds: float) -> None:
        """Restart the count, when the process has received a request or sent a message."""
        self._timeout_seconds = timeout_seconds
        self._interval_seconds = min(0.5, max(0.01, timeout_seconds / 4))
        self._reset_at = self._used()
        self._idle_seconds = 0.0
        with suppress(psutil.Error, AttributeError):  # the process has just ended; the system has no rlimits
            limits = [self._usage.rlimit(kind)[0] for kind in (psutil.RLIMIT_AS, psutil.RLIMIT_DATA)]
            self.memory_is_limited = set(limits) != {psutil.RLIM_INFINITY}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while the block waits for a message, including while one is partly received."""
        self._is_watched.set()
        try:
            yield
        finally:
            with self._lock:  # not during a check
                self._is_watched.clear()

    def close(self) -> None:
        """Stop watching permanently."""
        self._is_over.set()
        self._is_watched.set()

    def _watch(self) -> None:
        while self._is_watched.wait() and not self._is_over.wait(self._interval_seconds):
            with self._lock:
                if self._is_watched.is_set() and self.verdict is None:
                    self._check()

    def _check(self) -> None:
        before = self._cpu_seconds
        if self._used() - self._reset_at >= self._timeout_seconds:
            verdict = DecoderDeathError(f"timeout: no sign of life from the decoder in {self._seconds(1)} of computing")
            self._end(verdict)
            return
        # A check counts as one interval, however late it comes: while the machine is paused, there are no checks.
        self._idle_seconds = 0.0 if self._cpu_seconds > before else self._idle_seconds + self._interval_seconds
        if self._idle_seconds >= self._timeout_seconds * IDLE_FACTOR:
            why = f"decoder neither computed nor answered for {self._seconds(IDLE_FACTOR)}"
            # The disk is not the cause if this process has just read the whole file.
            self._end(DecoderDeathError(f"timeout: the {why}") if self.has_read_bytes else ReadingError(f"its {why}"))

    def _seconds(self, factor: float) -> str:
        return f"{self._timeout_seconds * factor:g} s"

    def _used(self) -> float:
        """Return the CPU seconds of all threads of the process."""
        with suppress(psutil.Error):  # the process has just ended
            times = self._usage.cpu_times()
            self._cpu_seconds = times.user + times.system
        return self._cpu_seconds

    def _end(self, verdict: DecoderDeathError | ReadingError) -> None:
        self.verdict = verdict
        self._process.kill()
