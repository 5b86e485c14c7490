"""Ends a process that shows no sign of life, by the work it does rather than by the clock.

Everything may be stopped for minutes (a batch scheduler, a paused virtual machine) or be starved by others. A process hangs if it
computes for long without a sign of life; one that neither computes nor answers waits for something outside: a disk, a server.
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

IDLE_FACTOR = 5  # so many timeouts a process may neither compute nor answer


class Watchdog:
    """Kills a process that has computed for `timeout_seconds`, or done nothing for 5 times that, since the last `reset`.

    It looks only while somebody waits for the process; `verdict` then says why it was killed. `memory_is_limited` says whether
    the process could be refused memory, at which decoders crash; `has_read_bytes` is set by who knows that it has read its file.
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
        """Count from now on: the process has just been given work, or has shown a sign of life."""
        self._timeout_seconds = timeout_seconds
        self._look_every_seconds = min(0.5, max(0.01, timeout_seconds / 4))
        self._reset_at = self._used()
        self._idle_seconds = 0.0
        with suppress(psutil.Error, AttributeError):  # it has just ended; a system that does not say
            limits = [self._usage.rlimit(kind)[0] for kind in (psutil.RLIMIT_AS, psutil.RLIMIT_DATA)]
            self.memory_is_limited = set(limits) != {psutil.RLIM_INFINITY}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while the block waits for the process, even in the middle of a message."""
        self._is_watched.set()
        try:
            yield
        finally:
            with self._lock:  # not in the middle of a look
                self._is_watched.clear()

    def close(self) -> None:
        """End the watch for good."""
        self._is_over.set()
        self._is_watched.set()

    def _watch(self) -> None:
        while self._is_watched.wait() and not self._is_over.wait(self._look_every_seconds):
            with self._lock:
                if self._is_watched.is_set() and self.verdict is None:
                    self._look()

    def _look(self) -> None:
        before = self._cpu_seconds
        if self._used() - self._reset_at >= self._timeout_seconds:
            self._end(
                DecoderDeathError(f"timeout: no sign of life from the decoder in {self._seconds(1)} of computing")
            )
            return
        # One look counts as one interval, however late it comes: while everything is stopped, nobody looks.
        self._idle_seconds = 0.0 if self._cpu_seconds > before else self._idle_seconds + self._look_every_seconds
        if self._idle_seconds >= self._timeout_seconds * IDLE_FACTOR:
            why = f"decoder neither computed nor answered for {self._seconds(IDLE_FACTOR)}"
            # Not its disk, if this very process has just read all of the file.
            self._end(DecoderDeathError(f"timeout: the {why}") if self.has_read_bytes else ReadingError(f"its {why}"))

    def _seconds(self, factor: float) -> str:
        return f"{self._timeout_seconds * factor:g} s"

    def _used(self) -> float:
        """Seconds of CPU that the process has used, of all its threads."""
        with suppress(psutil.Error):  # it has just ended
            times = self._usage.cpu_times()
            self._cpu_seconds = times.user + times.system
        return self._cpu_seconds

    def _end(self, verdict: DecoderDeathError | ReadingError) -> None:
        self.verdict = verdict
        self._process.kill()
