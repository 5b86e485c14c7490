"""Locks by name, shared by all processes that use a store; who waits for another process logs it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from filelock import AcquireReturnProxy, FileLock

log = logging.getLogger("sevila")

LOG_AFTER_SECONDS = 5.0  # what is over sooner is worth no line
LOG_AGAIN_SECONDS = 600.0

_logged_at: dict[str, float] = {}  # when this process last logged that it waits, by the artifact or space of the pool


class NamedLock(FileLock):
    """A lock that is freed when its holder dies. Its `name` begins with what it guards: `<id>/build`, `pool/<space>/<key>`."""

    name = ""

    def acquire(self, timeout: float | None = None, *args: Any, **options: Any) -> AcquireReturnProxy:
        """Take the lock; who waits without end logs now and then for what."""
        if timeout is None or timeout < 0:
            options.setdefault("cancel_check", _logging_wait(self.name))  # called again and again while it waits
        return super().acquire(timeout, *args, **options)


def _logging_wait(name: str) -> Callable[[], bool]:
    """Return what logs, once it is time to, that this process waits; it answers that the wait shall go on."""
    began, guarded = time.monotonic(), name.rpartition("/")[0] or name

    def check() -> bool:
        now = time.monotonic()
        if now - began > LOG_AFTER_SECONDS and now - _logged_at.get(guarded, -LOG_AGAIN_SECONDS) > LOG_AGAIN_SECONDS:
            _logged_at[guarded] = now
            log.info(
                "waiting for another process that is at work on %s; this goes on when it has finished or ended", name
            )
        return False

    return check
