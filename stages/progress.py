"""Progress of long loops: a bar in a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
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


@contextmanager
def bytes_bar(description: str, total: int) -> Iterator[Callable[[int], object]]:
    """Yield what shows how many bytes were read: call it with the number of each piece."""
    if sys.stderr.isatty():
        with tqdm(desc=description, unit="B", unit_scale=True, total=total, leave=False, delay=1) as bar:
            yield bar.update
        return
    done, last = 0, time.monotonic()

    def tell(n_bytes: int) -> None:
        nonlocal done, last
        done += n_bytes
        if time.monotonic() - last > LOG_EVERY_SECONDS:
            last = time.monotonic()
            log.info("%s: %.1f of %.1f GB", description, done / 1e9, total / 1e9)

    yield tell


@contextmanager
def steps_bar(description: str, total: int, done: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Yield what shows a training's progress: call it after each step with the steps done and the figures of the last one."""
    if sys.stderr.isatty():
        with tqdm(desc=description, unit="step", total=total, initial=done, leave=False, dynamic_ncols=True) as bar:

            def show(step: int, figures: dict[str, float]) -> None:
                bar.set_postfix_str(_in_words(figures), refresh=False)
                bar.update(step - bar.n)

            yield show
        return
    last = time.monotonic()

    def tell(step: int, figures: dict[str, float]) -> None:
        nonlocal last
        if time.monotonic() - last > LOG_EVERY_SECONDS:
            last = time.monotonic()
            log.info("%s: step %d of %d: %s", description, step, total, _in_words(figures))

    yield tell


def _in_words(figures: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items())
