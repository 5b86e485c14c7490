"""A selector of one's own on the scores of a run: `python examples/own_selector.py` beside a store `.sevila` (SEVILA_STORE)."""

import numpy as np

import sevila
from sevila.extending import Floats, Options, Positions, selector


class SpreadOptions(Options):
    """Options have defaults, and are checked."""

    least_apart: int = 2


@selector(version=1, source="an example")
def spread(scores: Floats, k: int, options: SpreadOptions) -> Positions:
    """The highest scores, no two of them nearer than `least_apart` frames."""
    chosen: list[int] = []
    for position in np.argsort(-scores, kind="stable").tolist():
        if len(chosen) < k and all(abs(position - other) >= options.least_apart for other in chosen):
            chosen.append(position)
    return np.sort(np.array(chosen, np.int64))


scores = sevila.artifact("score_frames").arrow()
for question in scores.group_by("question_id").aggregate([("logit_yes", "list")]).to_pylist():
    print(question["question_id"], sevila.select(question["logit_yes_list"], spread, k=3, least_apart=3))
