"""Selection of frames from external scores: AKS's two JSON lists, matched by position.

scores: [[0.1, 0.7, ...], ...]   one list per question, one score per candidate frame
frames: [[0, 25, ...], ...]      the indices of these frames in the video
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache.errors import SevilaError
from pipeline.datasets.readers.score_files import read_score_lists
from pipeline.selection.registry import selector_named
from pipeline.selection.selector import Candidates


def select_frames(
    scores: Path, frames: Path, selector: str, k: int, options: Mapping[str, Any] | None = None
) -> list[list[int]]:
    """Return the indices of at most `k` frames of each entry, ascending, in the order of the two files.

    A random selector is seeded for each entry by its number.

    Raises:
        SevilaError: The selector is unknown, needs more than scores, or has an invalid option; or k is below 1.
        SchemaError, MissingSourceError: As `read_score_lists`.
    """
    choose = selector_named(selector)
    missing = sorted(set(choose.needs) - {"n_frames", "scores", "rng"})
    if missing:
        raise SevilaError(f"{selector} needs {' and '.join(missing)} of the frames, which score files do not contain")
    checked = choose.options_from(options or {})
    if k < 1:
        raise SevilaError(f"k is {k}; expected at least 1 frame")
    chosen = []
    for number, scored in enumerate(read_score_lists(scores, frames)):
        candidates = Candidates.of(scores=scored.values, question_id=str(number))
        chosen.append(scored.places[choose(candidates, k, checked)].tolist())
    return chosen
