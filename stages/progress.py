"""Progress of long loops: a bar in a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

log = logging.getLogger("sevila")
LOG_EVERY_SECONDS = 30.0

Item = TypeVar("Item")


def track(items: Iterable[Item], description: str, unit: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items, showing how many are done."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        yield from tqdm(items, desc=description, unit=unit, total=total, leave=False, dynamic_ncols=True)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - last > LOG_EVERY_SECONDS:
            last = time.monotonic()
            rate = done / (last - start)
            log.info("%s: %d of %s %ss, %.2f a second", description, done, total or "?", unit, rate)
        yield item
