"""Frames chosen from scores made elsewhere: AKS's two JSON lists, matched by position.

scores: [[0.1, 0.7, ...], ...]   one list a question, one score a candidate frame
frames: [[0, 25, ...], ...]      the same frames' numbers in the video
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache.errors import SevilaError
from pipeline.datasets.score_files import read_score_lists
from pipeline.selection.registry import selector_named
from pipeline.selection.selector import Candidates


def select_frames(
    scores: Path, frames: Path, selector: str, k: int, options: Mapping[str, Any] | None = None
) -> list[list[int]]:
    """Return the numbers of at most `k` frames of each entry, ascending, in the order of the two files.

    A seeded selector draws for each entry by its number.

    Raises:
        SevilaError: no such selector, or one that needs more than scores; k below 1; an option at fault.
        SchemaError, MissingSourceError: as `read_score_lists`.
    """
    choose = selector_named(selector)
    more = set(choose.needs) - {"n_frames", "scores", "rng"}
    if more:
        raise SevilaError(f"{selector} needs {' and '.join(sorted(more))} of the frames, and score files have none")
    checked = choose.options_from(options or {})
    if k < 1:
        raise SevilaError(f"k is {k}; at least 1 frame was wanted")
    chosen = []
    for number, scored in enumerate(read_score_lists(scores, frames)):
        candidates = Candidates.of(scores=scored.values, question_id=str(number))
        chosen.append(scored.places[choose(candidates, k, checked)].tolist())
    return chosen
