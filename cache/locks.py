"""Locks by name, shared by all processes that use a store; who waits for another process logs it."""

from __future__ import annotations

import logging
import time
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout

log = logging.getLogger("sevila")

LOG_AFTER_SECONDS = 5.0  # what is over sooner is worth no line
LOG_AGAIN_SECONDS = 600.0

_logged_at: dict[str, float] = {}  # when this process last logged that it waits, by the artifact or space of the pool


class NamedLock(FileLock):
    """A lock that is freed when its holder dies. Its `name` begins with what it guards: `<id>/build`, `pool/<space>/<key>`."""

    name = ""

    def acquire(self, timeout: float | None = None, *args: Any, **options: Any) -> AcquireReturnProxy:
        """Take the lock; who waits without end logs now and then for what."""
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
        now, guarded = time.monotonic(), self.name.rpartition("/")[0] or self.name
        if now - _logged_at.get(guarded, -LOG_AGAIN_SECONDS) >= LOG_AGAIN_SECONDS:
            _logged_at[guarded] = now
            log.info(
                "waiting for another process that is at work on %s; this goes on when it has finished or ended",
                self.name,
            )
