"""Named locks, shared by all processes that use a store; a process that waits for another one logs it."""

from __future__ import annotations

import logging
import time
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout

log = logging.getLogger("sevila")

LOG_AFTER_SECONDS = 5.0  # shorter waits are not logged
LOG_AGAIN_SECONDS = 600.0

_logged_at: dict[str, float] = {}  # time of this process's last log line, by artifact or pool space


class NamedLock(FileLock):
    """A lock that is freed when its holder dies; `name` starts with the locked thing: `<id>/build`, `pool/<space>/<key>`."""

    name = ""

    def acquire(self, timeout: float | None = None, *args: Any, **options: Any) -> AcquireReturnProxy:
        """Acquire the lock; without a timeout, log the wait after `LOG_AFTER_SECONDS`, then every `LOG_AGAIN_SECONDS`."""
        if timeout is not None and timeout >= 0:
            return super().acquire(timeout, *args, **options)
        wait_seconds = LOG_AFTER_SECONDS
        while True:
            try:
                return super().acquire(wait_seconds, *args, **options)
            except Timeout:
                self._log()
                wait_seconds = LOG_AGAIN_SECONDS

    def _log(self) -> None:
        now, locked = time.monotonic(), self.name.rpartition("/")[0] or self.name
        if now - _logged_at.get(locked, -LOG_AGAIN_SECONDS) >= LOG_AGAIN_SECONDS:
            _logged_at[locked] = now
            log.info(
                "waiting for another process that works on %s; continues when that work is done or its process ends",
                self.name,
            )
