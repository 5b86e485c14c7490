"""Seconds per step of the demo's first training, alone and beside busy processes: `python -m benchmarks.shared_machine`.

Run it on an idle machine; the ratio should be at most 2.5 with as many busy processes as cores.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.shapes.backbone import ShapesBackbone
from pipeline.shapes.optimising import ShowStep

STEPS, ROUNDS, BATCH = 40, 5, 128


def seconds_a_step(backbone: ShapesBackbone, n_busy: int) -> float:
    """Return the seconds per step beside `n_busy` processes that compute endlessly."""
    others = [multiprocessing.get_context("spawn").Process(target=_compute, daemon=True) for _ in range(n_busy)]
    for process in others:
        process.start()
    time.sleep(1.0 if others else 0.0)
    started = time.perf_counter()
    backbone.train("read", STEPS, BATCH, _no_bar)
    seconds = (time.perf_counter() - started) / STEPS
    for process in others:
        process.terminate()
        process.join()
    return seconds


def _compute() -> None:
    while True:
        sum(range(1000))


@contextmanager
def _no_bar(description: str, steps: int, done: int) -> Iterator[ShowStep]:
    yield lambda step, figures: None


def main(n_busy: int) -> None:
    """Measure by turns, and print the medians and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        backbone = ShapesBackbone(Path(folder), 0)
        backbone.train("read", 4, BATCH, _no_bar)
        rounds = [[seconds_a_step(backbone, busy) for busy in (0, n_busy)] for _ in range(ROUNDS)]
    alone, beside = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"a step: {alone:.4f} s alone, {beside:.4f} s beside {n_busy} busy processes: {beside / alone:.2f} times")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
