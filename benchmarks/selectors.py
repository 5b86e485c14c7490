"""CPU seconds of every selector on one core: `OMP_NUM_THREADS=1 python -m benchmarks.selectors`.

Scores of 3,600 frames, an hour at one a second: half of them wander, as neighbours look alike, half are mostly low with few high
ones. Vectors of 768 numbers where a selector needs them.
"""

import time
from typing import Any

import numpy as np

from pipeline.selection.registry import selector_named, selector_names
from pipeline.selection.selector import Candidates, Selector
from pipeline.text_table import aligned

N_QUESTIONS, N_FRAMES, VECTOR_WIDTH = 52_000, 3_600, 768
KS = (8, 32)


def seconds_a_question(selector: Selector, k: int, scores: np.ndarray, vectors: np.ndarray) -> float:
    """Mean CPU seconds from scores to positions, their checks included."""
    list_wise = "vectors" in selector.needs
    questions = scores[:: len(scores) // 4] if list_wise else scores
    moments = [[60.0, 90.0], [1800.0, 1830.0]]
    started = time.process_time()
    for number, values in enumerate(questions):
        more: dict[str, Any] = {"vectors": vectors} if list_wise else {}
        if "seconds" in selector.needs:
            more = {"seconds": np.arange(N_FRAMES), "moments": np.array(moments)}
        selector(Candidates.of(scores=values, question_id=str(number), **more), k)
    return (time.process_time() - started) / len(questions)


def main() -> None:
    """Print a table."""
    rng = np.random.default_rng(0)
    scores = np.r_[rng.normal(size=(500, N_FRAMES)).cumsum(axis=1), rng.random((500, N_FRAMES)) ** 20]
    vectors = rng.normal(size=(N_FRAMES, VECTOR_WIDTH))
    lines = [["selector", "k", "ms a question", f"s for {N_QUESTIONS:,} questions"]]
    for name in selector_names():
        for k in KS:
            seconds = seconds_a_question(selector_named(name), k, scores, vectors)
            lines.append([name, str(k), f"{seconds * 1e3:.2f}", f"{seconds * N_QUESTIONS:,.0f}"])
    print(aligned(lines))


if __name__ == "__main__":
    main()
