"""CPU seconds of every selector on one core: `OMP_NUM_THREADS=1 python -m benchmarks.selectors`.

Scores of 3,600 frames, one hour at 1 fps: for half of the questions random walks, as neighbouring frames are similar, for the
others mostly low with few peaks. Selectors that need vectors get 768 numbers per frame. Writes `selectors.json` to OUT, by
default the current folder.
"""

import time
from typing import Any

import numpy as np

from benchmarks.report import show
from pipeline.selection.registry import selector_named, selector_names
from pipeline.selection.selector import Candidates, Selector

N_QUESTIONS, N_FRAMES, VECTOR_WIDTH = 52_000, 3_600, 768
KS = (8, 32)


def seconds_a_question(selector: Selector, k: int, scores: np.ndarray, vectors: np.ndarray) -> float:
    """Return the mean CPU seconds from scores to positions, including checks of the inputs."""
    needs_vectors = "vectors" in selector.needs
    questions = scores[:: len(scores) // 4] if needs_vectors else scores
    moments = [[60.0, 90.0], [1800.0, 1830.0]]
    started = time.process_time()
    for number, values in enumerate(questions):
        inputs: dict[str, Any] = {"vectors": vectors} if needs_vectors else {}
        if "seconds" in selector.needs:
            inputs = {"seconds": np.arange(N_FRAMES), "moments": np.array(moments)}
        selector(Candidates.of(scores=values, question_id=str(number), **inputs), k)
    return (time.process_time() - started) / len(questions)


def main() -> None:
    """Print a table."""
    rng = np.random.default_rng(0)
    scores = np.r_[rng.normal(size=(500, N_FRAMES)).cumsum(axis=1), rng.random((500, N_FRAMES)) ** 20]
    vectors = rng.normal(size=(N_FRAMES, VECTOR_WIDTH))
    lines = [["selector", "k", "ms per question", f"s for {N_QUESTIONS:,} questions"]]
    for name in selector_names():
        for k in KS:
            seconds = seconds_a_question(selector_named(name), k, scores, vectors)
            lines.append([name, str(k), f"{seconds * 1e3:.2f}", f"{seconds * N_QUESTIONS:,.0f}"])
    show("selectors", lines)


if __name__ == "__main__":
    main()
