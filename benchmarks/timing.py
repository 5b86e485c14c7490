"""Seconds of work on a device, and the share in which the device was computing."""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch


def synchronize(device: str) -> None:
    """Wait until a GPU has finished all its work; no-op for a CPU."""
    if device != "cpu":
        torch.cuda.synchronize()


def processor_seconds() -> float:
    """Return the processor seconds of this process and of its finished children."""
    return sum(os.times()[:4])


def median_seconds(work: Callable[[], Any], device: str, repeats: int = 5) -> float:
    """Return the median seconds of a call, after a warm-up call."""
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
    calls: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Return the median seconds of each call; the calls take turns, after a warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, work in calls.items():
            started = clock()
            work()
            if turn:
                seconds[name].append(clock() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


@dataclass
class Busy:
    """A GPU's work in a block: wall seconds, seconds from the first to the last kernel, in kernels, and in copies."""

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
        """Return the seconds of the longest kernels, by the first 90 letters of their names."""
        return {name[:90]: round(seconds, 4) for name, seconds in self.kernels.most_common(n)}


@contextmanager
def watched(device: str) -> Iterator[Busy]:
    """Time a block, on a GPU with kernels by torch's profiler; on a CPU, only `seconds` is set."""
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
