"""Annotation files -> rows with line numbers -> Annotations. A bad row is kept with its reason, never guessed at."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.errors import MissingSourceError, SchemaError
from pipeline.question import Annotations, Question, Rejected, Video


class BadRow(Exception):
    """This row cannot become a question; the message is the reason its `Rejected` carries."""


@dataclass(frozen=True)
class Row:
    """One row by column name, and the 1-based physical line on which it begins."""

    line: int
    cells: dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """The rows of one file in file order, the names of all columns it has, and the rows that could not be read."""

    file: str
    columns: list[str]
    rows: list[Row]
    rejected: list[Rejected]


def read_text(path: Path) -> str:
    """The file's text without a byte order mark, line ends as they are.

    Raises MissingSourceError if it cannot be read, SchemaError with the byte offset if it is not UTF-8.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MissingSourceError(f"{path}: cannot be read ({error.strerror}); an annotation file was wanted") from error
    try:
        # Not "utf-8-sig": it counts the offset of a bad byte from behind the mark.
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        found = f"byte 0x{data[error.start]:02x} at offset {error.start} is not UTF-8"
        raise SchemaError(f"{path}: {found}; save the file as UTF-8") from error


def read_csv(path: Path, required: Sequence[str]) -> Rows:
    """Comma-separated rows below a header that has at least the `required` columns, in any order; others come along.

    Raises SchemaError for a file without rows, and for a header that is missing, unreadable, lacks a required column
    or has a column twice.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    header: list[str] | None = None
    rows, rejected = [], []
    while True:
        line = reader.line_num + 1  # where the row begins: a quoted cell may run over several lines
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            if header is None:
                raise SchemaError(f"{path}: line {line} is not a CSV header ({error})") from error
            rejected.append(Rejected(path.name, line, _csv_reason(error, line, reader.line_num)))
            continue
        if not any(cell.strip() for cell in cells):
            continue  # blank lines, and the ",,,," that spreadsheets leave at the end
        if header is None:
            header = _checked_header(path, cells, required)
        elif len(cells) != len(header):
            reason = f"{len(cells)} cells, the header has {len(header)}: a line cut short, or a comma outside quotes?"
            rejected.append(Rejected(path.name, line, reason))
        else:
            rows.append(Row(line, dict(zip(header, cells, strict=True))))
    if header is None:
        raise SchemaError(f"{path}: the file is empty; a header with the columns {', '.join(required)} was wanted")
    if not rows and not rejected:
        raise SchemaError(f"{path}: a header and no rows; one question per row was wanted")
    return Rows(path.name, header, rows, rejected)


def _csv_reason(error: csv.Error, first_line: int, last_line: int) -> str:
    # A quote that is never closed swallows the lines behind it: say how many, they are lost with this row.
    span = f"lines {first_line} to {last_line} read as one row: " if last_line > first_line else ""
    return f"{span}not CSV, a quote is not closed or not alone in its cell ({error})"


def _checked_header(path: Path, cells: list[str], required: Sequence[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    missing = [name for name in required if name not in header]
    if missing:
        raise SchemaError(
            f"{path}: no column {', '.join(missing)}; found {', '.join(header)}; "
            f"wanted a first line with {', '.join(required)}, separated by commas"
        )
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise SchemaError(f"{path}: the header has {', '.join(twice)} twice; rename one")
    return header


def read_jsonl(path: Path) -> Rows:
    """One JSON object a line. Raises SchemaError if not a single line is one."""
    rows, rejected = [], []
    for line, text in enumerate(read_text(path).split("\n"), start=1):  # splitlines() would also cut at U+2028
        if not text.strip():
            continue
        try:
            cells = json.loads(text)
        except (ValueError, RecursionError) as error:  # a plain ValueError: an integer of thousands of digits
            rejected.append(Rejected(path.name, line, f"not JSON: {error}"))
            continue
        if isinstance(cells, dict):
            rows.append(Row(line, cells))
        else:
            rejected.append(Rejected(path.name, line, f"a JSON {type(cells).__name__}, an object was wanted"))
    if not rows:
        why = f"line {rejected[0].line}: {rejected[0].reason}" if rejected else "the file is empty"
        raise SchemaError(f"{path}: no line is a JSON object ({why}); one question per line was wanted")
    return Rows(path.name, list(dict.fromkeys(key for row in rows for key in row.cells)), rows, rejected)


def collect(
    file: str, rows: Iterable[Row], rejected: Iterable[Rejected], parse: Callable[[Row], tuple[Question, Video]]
) -> Annotations:
    """Parse every row; those that raise BadRow, or repeat a question id, join `rejected`, which comes back by line."""
    questions: list[Question] = []
    videos: dict[str, Video] = {}
    line_of: dict[str, int] = {}
    left_out = list(rejected)
    for row in rows:
        try:
            question, video = parse(row)
            first = line_of.setdefault(question.question_id, row.line)
            if first != row.line:
                raise BadRow(f"question_id {question.question_id!r} is already on line {first}")
        except BadRow as bad:
            left_out.append(Rejected(file, row.line, str(bad)))
            continue
        questions.append(question)
        videos.setdefault(video.video_id, video)
    return Annotations(questions, list(videos.values()), sorted(left_out, key=lambda rejected: rejected.line))
