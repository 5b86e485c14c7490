"""Files of external frame scores: a table, or the two JSON lists of AKS.

A table (.parquet, .csv, .jsonl) has a row per frame: question_id, frame_index (from 0, in the video) or seconds, score.
The lists are `scores.json` and `frames.json` of one folder, with an entry per question, in the order of the annotations.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cache.errors import MissingSourceError, SchemaError, SevilaError, did_you_mean
from cache.files import kind_of
from cache.printable import shortened
from pipeline.datasets.readers.parquet_file import read_parquet_columns
from pipeline.datasets.readers.rows import checked_header, csv_lines, read_jsonl
from pipeline.datasets.readers.text_file import read_text
from pipeline.datasets.readers.values import BadRow, text

LISTS = ("scores.json", "frames.json")
TABLES = (".parquet", ".csv", ".jsonl")
LARGEST = float(np.finfo(np.float32).max)  # scores are stored as float32


class ScoredFrames(NamedTuple):
    """Frames of one question's video, ascending, and their scores, each [S].

    `places` are indices in the video, int64, or times in seconds, float64. `line` is that of the question's first row.
    """

    places: NDArray[Any]
    values: NDArray[np.float64]
    line: int = 0


def files_of_scores(path: Path) -> list[Path]:
    """Return the files of a path: a table, or a folder's two lists. Raises `MissingSourceError` for anything else."""
    if path.is_file():
        if path.suffix.lower() not in TABLES:
            raise MissingSourceError(
                f"{path}: ends in {path.suffix or 'nothing'}; expected a table of scores ({', '.join(TABLES)}), or the folder "
                f"with AKS's {' and '.join(LISTS)}"
            )
        return [path]
    files = [path / name for name in LISTS]
    for file in files:
        if not file.is_file():
            state = f"is {kind_of(file)}" if kind_of(file) else "missing"
            raise MissingSourceError(f"{file}: {state}; expected {' and '.join(LISTS)} as AKS writes them, or a table")
    return files


def read_score_lists(scores: Path, frames: Path) -> Iterator[ScoredFrames]:
    """Yield the frames of each entry of AKS's two lists, matched by position.

    Raises:
        SchemaError: a file or entry is not a list, the numbers of scores and frames differ, a score is not a finite float32,
            or frames are not ascending numbers from 0.
        MissingSourceError: a file cannot be read.
    """
    all_scores, all_frames = _outer_list(scores), _outer_list(frames)
    if len(all_scores) != len(all_frames):
        raise SchemaError(
            f"{scores} has {len(all_scores)} entries, {frames} has {len(all_frames)}; expected one per question, in one order"
        )
    for number, (values, indices) in enumerate(zip(all_scores, all_frames, strict=True)):
        for path, entry in ((scores, values), (frames, indices)):
            if not isinstance(entry, list):
                raise SchemaError(f"{path}: entry {number} (from 0) is {_shown(entry)}; expected a list")
        if len(values) != len(indices):
            raise SchemaError(
                f"entry {number} (from 0): {len(values)} scores in {scores}, {len(indices)} frames in {frames}; "
                "expected one score per frame"
            )
        checked_indices = np.array(_frames(frames, number, indices), np.int64)
        yield ScoredFrames(checked_indices, _scores(scores, number, values), number)


def _scores(path: Path, number: int, entry: list[Any]) -> NDArray[np.float64]:
    if set(map(type, entry)) <= {float, int}:
        with suppress(OverflowError):  # of very large integers
            array = np.array(entry, np.float64)
            if (np.abs(array) <= LARGEST).all():  # False for nan
                return array
    index = next(index for index, value in enumerate(entry) if not _is_score(value))
    raise SchemaError(
        f"{path}: entry {number} (from 0), score {index} is {_shown(entry[index])}; expected a finite number"
    )


def _is_score(value: Any) -> bool:
    return type(value) in (float, int) and abs(value) <= LARGEST


def _frames(path: Path, number: int, entry: list[Any]) -> list[int]:
    previous = -1
    for index, value in enumerate(entry):
        if type(value) is not int or not previous < value < 1 << 62:
            after = f" after {previous}" if index and type(value) is int else ""
            raise SchemaError(
                f"{path}: entry {number} (from 0), frame {index} is {_shown(value)}{after}; expected ascending frame numbers "
                "from 0, each once"
            )
        previous = value
    return entry


def _outer_list(path: Path) -> list[Any]:
    try:
        content = json.loads(read_text(path, "file of scores or frames"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, SevilaError):
            raise
        raise SchemaError(f"{path}: is not JSON ({error}); expected a list of lists") from error
    if not isinstance(content, list):
        raise SchemaError(f"{path}: holds {_shown(content)}; expected a list with one list per question")
    return content


def _shown(value: Any) -> str:
    return shortened(json.dumps(value), 43)


@dataclass
class _TableRows:
    """The rows of one question in a table."""

    lines: list[int] = field(default_factory=list)
    places: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


def read_score_table(path: Path, column: str) -> dict[str, ScoredFrames]:
    """Return the frames of each question of a table, by question id.

    Args:
        path: of the table.
        column: name of the column of scores.

    Raises:
        SchemaError: a missing column, a row with an invalid score, frame or question, or a frame scored twice.
        MissingSourceError: the file cannot be read.
    """
    names, rows = _table(path)
    place_column = next((name for name in ("frame_index", "seconds") if name in names), "frame_index")
    for name in ("question_id", place_column, column):
        if name not in names:
            raise SchemaError(
                f"{path}: no column {name!r}{did_you_mean(name, names)}; there are {', '.join(names)}; expected question_id, "
                "frame_index or seconds, and the score (import_scores.column names its column)"
            )
    parse_place = _frame_index if place_column == "frame_index" else _seconds
    questions: dict[str, _TableRows] = {}
    for line, cells in rows:
        try:
            question_rows = questions.setdefault(text("question_id", cells.get("question_id")), _TableRows())
            place, value = parse_place(cells.get(place_column)), _number(column, cells.get(column))
        except BadRow as bad:
            raise SchemaError(f"{path}: line {line}: {bad}") from None
        question_rows.lines.append(line)
        question_rows.places.append(place)
        question_rows.values.append(value)
    if not questions:
        raise SchemaError(f"{path}: has no row; expected one per scored frame, with {', '.join(names)}")
    return {id: _sorted_frames(path, id, place_column, question_rows) for id, question_rows in questions.items()}


def _sorted_frames(path: Path, id: str, place_column: str, rows: _TableRows) -> ScoredFrames:
    places: NDArray[Any] = np.array(rows.places, np.int64 if place_column == "frame_index" else np.float64)
    order = places.argsort(kind="stable")
    repeated = np.flatnonzero(np.diff(places[order]) == 0)
    if len(repeated):
        first, second = (rows.lines[index] for index in order[repeated[0] : repeated[0] + 2])
        place = rows.places[order[repeated[0]]]
        raise SchemaError(
            f"{path}: line {second}: question {id!r}, {place_column} {place}: is scored on line {first} already; expected once"
        )
    return ScoredFrames(places[order], np.array(rows.values)[order], rows.lines[0])


def _table(path: Path) -> tuple[Sequence[str], Iterable[tuple[int, Mapping[str, Any]]]]:
    """Return the column names of a table, and its rows with their lines (for Parquet, their numbers from 1)."""
    readers: dict[str, Callable[[Path], tuple[Sequence[str], Iterable[tuple[int, Mapping[str, Any]]]]]] = {
        ".parquet": read_parquet_columns,
        ".csv": _csv_rows,
        ".jsonl": _json_lines,
    }
    return readers[path.suffix.lower()](path)


def _csv_rows(path: Path) -> tuple[Sequence[str], Iterable[tuple[int, Mapping[str, Any]]]]:
    lines = csv_lines(path)
    line, cells, error = next(lines, (1, [], "the file is empty"))
    if error:
        raise SchemaError(f"{path}: line {line}: {error}; expected a table of scores")
    header = checked_header(path, cells, ())

    def rows() -> Iterator[tuple[int, Mapping[str, Any]]]:
        for line, cells, error in lines:
            if error or len(cells) != len(header):
                problem = error or f"{len(cells)} cells, the header has {len(header)}: a line cut short?"
                raise SchemaError(f"{path}: line {line}: {problem}")
            yield line, dict(zip(header, cells, strict=True))

    return header, rows()


def _json_lines(path: Path) -> tuple[Sequence[str], Iterable[tuple[int, Mapping[str, Any]]]]:
    table = read_jsonl(path)
    for bad in table.rejected:
        raise SchemaError(f"{path}: line {bad.line}: {bad.reason}")
    return table.columns, [(row.line, row.cells) for row in table.rows]


def _number(key: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= LARGEST:
        raise BadRow(f"{key} is {shortened(repr(value), 43)}; expected a finite number")
    return number


def _seconds(value: Any) -> float:
    seconds = _number("seconds", value)
    if seconds < 0:
        raise BadRow(f"seconds is {value!r}; expected a number from 0")
    return seconds


def _frame_index(value: Any) -> int:
    index = _number("frame_index", value)
    if index < 0 or index != int(index) or index >= 1 << 53:
        raise BadRow(f"frame_index is {value!r}; expected a whole number from 0")
    return int(index)
