"""Scores of frames that were made elsewhere, as files have them: a table, or AKS's two JSON lists.

A table (.parquet, .csv, .jsonl) has a row a frame: question_id, frame_index (from 0, in the video) or seconds, score.
The lists are `scores.json` and `frames.json` of one folder, an entry a question, in the order of the annotations.
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
from pipeline.datasets.parquet_file import read_parquet_columns
from pipeline.datasets.rows import checked_header, csv_lines, read_jsonl
from pipeline.datasets.text_file import read_text
from pipeline.datasets.values import BadRow, text

LISTS = ("scores.json", "frames.json")
TABLES = (".parquet", ".csv", ".jsonl")
LARGEST = float(np.finfo(np.float32).max)  # scores are stored so


class ScoredFrames(NamedTuple):
    """Some frames of one question's video, in ascending order, and their scores, each [S].

    `places` are their indices in the video, int64, or where they lie in seconds, float64. `line` is that of the first one.
    """

    places: NDArray[Any]
    values: NDArray[np.float64]
    line: int = 0


def files_of_scores(path: Path) -> list[Path]:
    """Return the files that are read of a place: a table, or a folder's two lists; raises `MissingSourceError` for another."""
    if path.is_file():
        if path.suffix.lower() not in TABLES:
            raise MissingSourceError(
                f"{path}: ends in {path.suffix or 'nothing'}; a table of scores ({', '.join(TABLES)}) was wanted, or the folder "
                f"with AKS's {' and '.join(LISTS)}"
            )
        return [path]
    files = [path / name for name in LISTS]
    for file in files:
        if not file.is_file():
            state = f"is {kind_of(file)}" if kind_of(file) else "missing"
            raise MissingSourceError(
                f"{file}: {state}; {' and '.join(LISTS)} as AKS writes them were wanted, or a table"
            )
    return files


def read_score_lists(scores: Path, frames: Path) -> Iterator[ScoredFrames]:
    """Yield the frames of each entry of AKS's two lists, matched by position.

    Raises:
        SchemaError: a file or an entry of it is at fault: no list, another number of scores than of frames, a score that is
            no finite float32, a frame that is no number from 0 or does not lie after the one in front of it.
        MissingSourceError: a file cannot be read.
    """
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
        indices = np.array(_frames(frames, number, numbers), np.int64)
        yield ScoredFrames(indices, _scores(scores, number, values), number)


def _scores(path: Path, number: int, entry: list[Any]) -> NDArray[np.float64]:
    if set(map(type, entry)) <= {float, int}:
        with suppress(OverflowError):  # of whole numbers
            array = np.array(entry, np.float64)
            if (np.abs(array) <= LARGEST).all():  # which is false of NaN
                return array
    place = next(place for place, value in enumerate(entry) if not _is_score(value))
    raise SchemaError(
        f"{path}: entry {number} (from 0), score {place} is {_shown(entry[place])}; a finite number was wanted"
    )


def _is_score(value: Any) -> bool:
    return type(value) in (float, int) and abs(value) <= LARGEST


def _frames(path: Path, number: int, entry: list[Any]) -> list[int]:
    before = -1
    for place, value in enumerate(entry):
        if type(value) is not int or not before < value < 1 << 62:
            after = f" after {before}" if place and type(value) is int else ""
            raise SchemaError(
                f"{path}: entry {number} (from 0), frame {place} is {_shown(value)}{after}; ascending frame numbers from 0 "
                "were wanted, each once"
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


@dataclass
class _TableRows:
    """What a table's rows say of one question so far."""

    lines: list[int] = field(default_factory=list)
    places: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


def read_score_table(path: Path, column: str) -> dict[str, ScoredFrames]:
    """Return the frames of each question of a table, by its id.

    Args:
        column: name of the column of the scores.

    Raises:
        SchemaError: no such columns, a row whose score, frame or question is none, or a frame that is scored twice.
        MissingSourceError: the file cannot be read.
    """
    names, rows = _table(path)
    by = next((name for name in ("frame_index", "seconds") if name in names), "frame_index")
    for name in ("question_id", by, column):
        if name not in names:
            wanted = "question_id, frame_index or seconds, and the score"
            raise SchemaError(
                f"{path}: no column {name!r}{did_you_mean(name, names)}; there are {', '.join(names)}; {wanted} were wanted "
                "(import_scores.column names the score's)"
            )
    place_of = _frame_index if by == "frame_index" else _seconds
    questions: dict[str, _TableRows] = {}
    for line, cells in rows:
        try:
            of_question = questions.setdefault(text("question_id", cells.get("question_id")), _TableRows())
            place, value = place_of(cells.get(by)), _number(column, cells.get(column))
        except BadRow as bad:
            raise SchemaError(f"{path}: line {line}: {bad}") from None
        of_question.lines.append(line)
        of_question.places.append(place)
        of_question.values.append(value)
    if not questions:
        raise SchemaError(f"{path}: has no row; one a scored frame was wanted, with {', '.join(names)}")
    kind = np.int64 if by == "frame_index" else np.float64
    return {id: _in_order(path, id, by, kind, each) for id, each in questions.items()}


def _in_order(path: Path, id: str, by: str, kind: type, rows: _TableRows) -> ScoredFrames:
    places: NDArray[Any] = np.array(rows.places, kind)
    order = places.argsort(kind="stable")
    same = np.flatnonzero(np.diff(places[order]) == 0)
    if len(same):
        first, second = (rows.lines[at] for at in order[same[0] : same[0] + 2])
        place = rows.places[order[same[0]]]
        raise SchemaError(
            f"{path}: line {second}: question {id!r}, {by} {place}: is scored on line {first} already; once was wanted"
        )
    return ScoredFrames(places[order], np.array(rows.values)[order], rows.lines[0])


def _table(path: Path) -> tuple[Sequence[str], Iterable[tuple[int, Mapping[str, Any]]]]:
    """Return the names of a table's columns, and its rows with their lines (of Parquet, their numbers from 1)."""
    read: dict[str, Callable[[Path], tuple[Sequence[str], Iterable[tuple[int, Mapping[str, Any]]]]]] = {
        ".parquet": read_parquet_columns,
        ".csv": _csv_rows,
        ".jsonl": _json_lines,
    }
    return read[path.suffix.lower()](path)


def _csv_rows(path: Path) -> tuple[Sequence[str], Iterable[tuple[int, Mapping[str, Any]]]]:
    lines = csv_lines(path)
    line, cells, error = next(lines, (1, [], "the file is empty"))
    if error:
        raise SchemaError(f"{path}: line {line}: {error}; a table of scores was wanted")
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


def _number(what: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= LARGEST:
        raise BadRow(f"{what} is {shortened(repr(value), 43)}; a finite number was wanted")
    return number


def _seconds(value: Any) -> float:
    seconds = _number("seconds", value)
    if seconds < 0:
        raise BadRow(f"seconds is {value!r}; a number from 0 was wanted")
    return seconds


def _frame_index(value: Any) -> int:
    index = _number("frame_index", value)
    if index < 0 or index != int(index) or index >= 1 << 53:
        raise BadRow(f"frame_index is {value!r}; a whole number from 0 was wanted")
    return int(index)
