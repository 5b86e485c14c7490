"""Seconds of work on a device, and which share of them the device was computing."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch


def synchronize(device: str) -> None:
    """Wait until a GPU has done all that was asked of it; a CPU always has."""
    if device != "cpu":
        torch.cuda.synchronize()


def median_seconds(work: Callable[[], Any], device: str, repeats: int = 5) -> float:
    """Return the median seconds of a call, after one that does not count."""
    work()
    synchronize(device)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def medians_by_turns(
    ways: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Return the median seconds of each way; they take turns, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, work in ways.items():
            started = clock()
            work()
            if turn:
                seconds[name].append(clock() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


@dataclass
class Busy:
    """A GPU's work within a block: the seconds from its first to its last kernel, and of these the ones in some kernel."""

    seconds: float = 0.0
    span_seconds: float = 0.0
    busy_seconds: float = 0.0
    copy_seconds: float = 0.0
    kernels: Counter[str] = field(default_factory=Counter)

    @property
    def waiting_percent(self) -> float:
        """Share of the span in which no kernel ran."""
        return 100.0 * (1.0 - self.busy_seconds / self.span_seconds) if self.span_seconds else 0.0

    def longest_kernels(self, n: int = 8) -> dict[str, float]:
        """Return the seconds of the kernels that took most, by the beginning of their names."""
        return {name[:90]: round(seconds, 4) for name, seconds in self.kernels.most_common(n)}


@contextmanager
def watched(device: str) -> Iterator[Busy]:
    """Time a block; on a GPU also by what torch's profiler saw of kernels. On a CPU only `seconds` are known."""
    busy = Busy()
    start = time.perf_counter()
    if device == "cpu":
        yield busy
        busy.seconds = time.perf_counter() - start
        return
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        yield busy
        torch.cuda.synchronize()
        busy.seconds = time.perf_counter() - start
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    spans = []
    for event in profile.profiler.kineto_results.events():
        if event.device_type() != torch.autograd.DeviceType.CUDA or not event.duration_ns():
            continue
        name, nanoseconds = event.name(), event.duration_ns()
        if name.startswith(("Memcpy", "Memset")):
            busy.copy_seconds += nanoseconds / 1e9
            continue
        spans.append((event.start_ns(), event.start_ns() + nanoseconds))
        busy.kernels[name] += nanoseconds / 1e9
    _add_up(busy, sorted(spans))


def _add_up(busy: Busy, spans: list[tuple[int, int]]) -> None:
    if not spans:
        return
    end = spans[0][0]
    for first, last in spans:
        busy.busy_seconds += max(0, last - max(first, end)) / 1e9
        end = max(end, last)
    busy.span_seconds = (end - spans[0][0]) / 1e9
