"""Frames chosen from scores made elsewhere: AKS's two JSON lists, matched by position, and its list of frame lists.

scores: [[0.1, 0.7, ...], ...]   one list a question, one score a candidate frame
frames: [[0, 25, ...], ...]      the same frames' numbers in the video
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import SchemaError, SevilaError
from cache.files import write_for_user
from cache.printable import shortened
from pipeline.datasets.text_file import read_text
from pipeline.selection.registry import selector_named
from pipeline.selection.selector import Candidates, Floats


def select_frames(
    scores: Path, frames: Path, selector: str, k: int, options: Mapping[str, Any] | None = None
) -> list[list[int]]:
    """Return the numbers of at most `k` frames of each entry, ascending, in the order of the two files.

    A seeded selector draws for each entry by its number.

    Raises:
        SevilaError: no such selector, or one that needs more than scores; k below 1; an option at fault.
        SchemaError: a file or an entry of it is at fault: no list, another number of scores than of frames, a score that is
            no finite number, a frame that is no number from 0 or lies before the one in front of it.
        MissingSourceError: a file cannot be read.
    """
    choose = selector_named(selector)
    more = set(choose.needs) - {"n_frames", "scores", "rng"}
    if more:
        raise SevilaError(f"{selector} needs {' and '.join(sorted(more))} of the frames, and score files have none")
    checked = choose.options_from(options or {})
    if k < 1:
        raise SevilaError(f"k is {k}; at least 1 frame was wanted")
    chosen = []
    for number, (values, numbers) in enumerate(_entries(scores, frames)):
        candidates = Candidates.of(scores=values, question_id=str(number))
        chosen.append([numbers[position] for position in choose(candidates, k, checked).tolist()])
    return chosen


def write_frames(path: Path, chosen: list[list[int]]) -> None:
    """Write a list of frame lists as AKS does (`selected_frames.json`); the folder is made if it is missing."""
    write_for_user(path, json.dumps(chosen).encode())


def _entries(scores: Path, frames: Path) -> Iterator[tuple[Floats, list[int]]]:
    all_scores, all_frames = _outer_list(scores), _outer_list(frames)
    if len(all_scores) != len(all_frames):
        raise SchemaError(
            f"{scores} has {len(all_scores)} entries, {frames} has {len(all_frames)}; one each a question, in one order, wanted"
        )
    for number, (values, numbers) in enumerate(zip(all_scores, all_frames, strict=True)):
        for path, entry in ((scores, values), (frames, numbers)):
            if not isinstance(entry, list):
                raise SchemaError(f"{path}: entry {number} (from 0) is {_shown(entry)}; a list was wanted")
        if len(values) != len(numbers):
            raise SchemaError(
                f"entry {number} (from 0): {len(values)} scores in {scores}, {len(numbers)} frames in {frames}; "
                "one score a frame was wanted"
            )
        yield _scores(scores, number, values), _frames(frames, number, numbers)


def _scores(path: Path, number: int, entry: list[Any]) -> Floats:
    if set(map(type, entry)) <= {float, int}:
        with suppress(OverflowError):  # of whole numbers
            array = np.array(entry, np.float64)
            if np.isfinite(array).all():
                return array
    place = next(place for place, value in enumerate(entry) if not _is_score(value))
    raise SchemaError(
        f"{path}: entry {number} (from 0), score {place} is {_shown(entry[place])}; a finite number was wanted"
    )


def _is_score(value: Any) -> bool:
    return type(value) in (float, int) and abs(value) <= sys.float_info.max


def _frames(path: Path, number: int, entry: list[Any]) -> list[int]:
    before = 0
    for place, value in enumerate(entry):
        if type(value) is not int or value < before:
            after = f" after {before}" if place and type(value) is int else ""
            raise SchemaError(
                f"{path}: entry {number} (from 0), frame {place} is {_shown(value)}{after}; ascending frame numbers from 0 "
                "were wanted"
            )
        before = value
    return entry


def _outer_list(path: Path) -> list[Any]:
    try:
        content = json.loads(read_text(path, "file of scores or frames"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, SevilaError):
            raise
        raise SchemaError(f"{path}: is not JSON ({error}); a list of lists was wanted") from error
    if not isinstance(content, list):
        raise SchemaError(f"{path}: holds {_shown(content)}; a list with one list a question was wanted")
    return content


def _shown(value: Any) -> str:
    return shortened(json.dumps(value), 43)
