"""Annotation files -> rows with line numbers -> Annotations. A bad row is rejected with a reason, never guessed at."""

import csv
import io
import json
import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.errors import SchemaError
from pipeline.datasets.adapter import About
from pipeline.datasets.question import Annotations, Question, Rejected, Video
from pipeline.datasets.readers.text_file import as_object, read_text, warn_if_cut
from pipeline.datasets.readers.values import BadRow, clip, exact_text, option_index, split_clip, text, video_name

logger = logging.getLogger(__name__)

LONGEST_CELL = 1 << 17  # characters; an unclosed quote makes longer cells of many lines


@dataclass(frozen=True, slots=True)
class Row:
    """The cells of a row by column name, and the 1-based physical line on which the row begins.

    `place` names the object within the line, for JSON lists, which may be a single line; it is the prefix of the row's reasons.
    """

    line: int
    cells: dict[str, Any]
    place: str = ""


@dataclass(frozen=True)
class Rows:
    """The rows of one file in file order, the names of all its columns, and the rows that could not be read."""

    file: str
    columns: list[str]
    rows: list[Row]
    rejected: list[Rejected]


def read_csv(path: Path, required: Sequence[str], columns: Sequence[str] = ()) -> Rows:
    """Return the comma-separated rows below a header with at least the `required` columns, in any order.

    `columns` are the names of all columns of a file without a header.

    Raises SchemaError for a file without rows, for a header that is missing, unreadable, lacks a required column or repeats a
    column, and for a file without a header in which no line has the expected number of cells.
    """
    header = list(columns)
    rows, rejected = [], []
    for line, cells, error in csv_lines(path):
        if not header and error:
            raise SchemaError(f"{path}: line {line} is not a CSV header ({error})")
        if error:
            rejected.append(Rejected(path.name, line, error))
        elif not header:
            header = checked_header(path, cells, required)
        elif len(cells) != len(header):
            expected = f"{len(header)} were wanted" if columns else f"the header has {len(header)}"
            reason = f"{len(cells)} cells, {expected}: a line cut short, or a comma outside quotes?"
            rejected.append(Rejected(path.name, line, reason))
        else:
            rows.append(Row(line, dict(zip(header, cells, strict=True))))
    if not header:
        raise SchemaError(f"{path}: the file is empty; expected a header with the columns {', '.join(required)}")
    if not rows and (columns or not rejected):
        problem = f"no usable line (line {rejected[0].line}: {rejected[0].reason})" if rejected else "no rows"
        raise SchemaError(f"{path}: {problem}; expected one question per row, with the columns {', '.join(header)}")
    return Rows(path.name, header, rows, rejected)


def csv_lines(path: Path) -> Iterator[tuple[int, list[str], str]]:
    """Yield the first line of each row, its cells, and ""; for a bad row no cells and the reason. Blank rows are skipped."""
    content = read_text(path)
    warn_if_cut(path, content)
    csv.field_size_limit(max(len(content), LONGEST_CELL))  # the default limit would end a row in the middle of a cell
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    while True:
        line = reader.line_num + 1  # the first of the row: a quoted cell may have several lines
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, [], _csv_reason(error, line, reader.line_num)
            continue
        problem = _cell_problem(cells, line, reader.line_num)
        if problem:
            yield line, [], problem
        elif any(cell.strip() for cell in cells):  # skips blank rows and the ",,,," that spreadsheets append
            yield line, cells, ""


def _cell_problem(cells: list[str], first_line: int, last_line: int) -> str:
    for number, cell in enumerate(cells, start=1):
        if "\0" in cell:
            return f"cell {number} holds a NUL byte, text was wanted; is the file damaged, or saved as UTF-16?"
        if len(cell) > LONGEST_CELL:
            return (
                f"cell {number} has {len(cell)} characters (lines {first_line} to {last_line}): is a quote not closed?"
            )
    return ""


def _csv_reason(error: csv.Error, first_line: int, last_line: int) -> str:
    # An unclosed quote joins the following lines to this row, so they are lost with it.
    span = f"lines {first_line} to {last_line} read as one row: " if last_line > first_line else ""
    return f"{span}not CSV, a quote is not closed or not alone in its cell ({error})"


def checked_header(path: Path, cells: list[str], required: Sequence[str]) -> list[str]:
    """Return the column names of a header; raise SchemaError if a `required` one is missing or a name is repeated."""
    header = [cell.strip() for cell in cells]
    missing = [name for name in required if name not in header]
    if missing:
        raise SchemaError(
            f"{path}: no column {', '.join(missing)}; found {', '.join(header)}; "
            f"expected a first line with {', '.join(required)}, separated by commas"
        )
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise SchemaError(f"{path}: the header has {', '.join(repeated)} twice; rename one")
    return header


def read_jsonl(path: Path, required: Sequence[str] = ()) -> Rows:
    """Return the JSON objects of a file with one object per line.

    Raises SchemaError if no line is an object, or if a `required` key is in none of them.
    """
    rows, rejected = [], []
    for line, content in enumerate(read_text(path).split("\n"), start=1):  # splitlines() also splits at U+2028
        if not content.strip():
            continue
        try:
            cells = json.loads(content, object_pairs_hook=as_object)
        except (ValueError, RecursionError) as error:  # a plain ValueError: an integer of thousands of digits
            rejected.append(Rejected(path.name, line, f"not JSON, or cut short: {error}"))
            continue
        if isinstance(cells, dict):
            rows.append(Row(line, cells))
        else:
            rejected.append(Rejected(path.name, line, f"a JSON {type(cells).__name__}, an object was wanted"))
    if not rows:
        problem = f"line {rejected[0].line}: {rejected[0].reason}" if rejected else "the file is empty"
        raise SchemaError(f"{path}: no line is a JSON object ({problem}); expected one question per line")
    return _checked_keys(path, rows, rejected, required)


def read_json_list(path: Path, required: Sequence[str], keep: Collection[str] = ()) -> Rows:
    """Return the objects of a JSON list, with the keys in `keep`, or all if it is empty.

    Raises SchemaError if the file is not a list of objects, is cut short, or if a `required` key is in none of them.
    """
    rows, rejected = [], []
    for number, line, value in json_items(path, read_text(path)):
        place = f"object {number}: "
        if isinstance(value, dict):
            rows.append(Row(line, {key: value[key] for key in keep if key in value} if keep else value, place))
        else:
            rejected.append(Rejected(path.name, line, f"{place}a JSON {type(value).__name__}, an object was wanted"))
    if not rows:
        raise SchemaError(f"{path}: the list holds no JSON object; expected one per question")
    return _checked_keys(path, rows, rejected, required)


def json_items(path: Path, content: str) -> Iterator[tuple[int, int, Any]]:
    """Yield the number (from 1), the line and the value of each item of a JSON list, decoded one by one."""

    blanks = re.compile(r"[ \t\r\n]*")

    def skip_blanks(start: int) -> int:
        return blanks.match(content, start).end()  # type: ignore[union-attr]  # also matches ""

    decode = json.JSONDecoder(object_pairs_hook=as_object).raw_decode
    position = skip_blanks(0)
    if content[position : position + 1] != "[":
        start = repr(content[position : position + 20]) if content[position:] else "nothing"
        raise SchemaError(f"{path}: begins with {start}; a JSON list of questions, [...], was wanted")
    position = skip_blanks(position + 1)
    number, line, counted = 0, 1, 0
    after = content[position : position + 1]
    while after != "]":
        number += 1
        line, counted = line + content.count("\n", counted, position), position
        try:
            value, end = decode(content, position)
        except (ValueError, RecursionError) as error:
            raise _damaged(path, f"object {number} on line {line}: {error}") from error
        yield number, line, value
        end = skip_blanks(end)
        after = content[end : end + 1]
        if after not in (",", "]"):
            raise _damaged(path, f"object {number} on line {line} is followed by {after or 'nothing'!r}")
        position = skip_blanks(end + 1)
    if content[position + (number == 0) :].strip():
        raise SchemaError(f"{path}: there is text behind the list of {number} objects; download the file again")


def _damaged(path: Path, where: str) -> SchemaError:
    return SchemaError(f"{path}: not a whole JSON list, cut short or damaged ({where}); download it again")


def _checked_keys(path: Path, rows: list[Row], rejected: list[Rejected], required: Sequence[str]) -> Rows:
    columns = list(dict.fromkeys(key for row in rows for key in row.cells))
    missing = [key for key in required if key not in columns]
    if missing:
        raise SchemaError(
            f"{path}: no object has the key {', '.join(missing)}; found {', '.join(columns) or 'none'}; "
            f"expected {', '.join(required)}"
        )
    return Rows(path.name, columns, rows, rejected)


def collect(
    file: str, rows: Iterable[Row], rejected: Iterable[Rejected], parse: Callable[[Row], tuple[Question, Video]]
) -> Annotations:
    """Parse every row; reject those that raise BadRow, repeat a question id, or give a video another path than an earlier row.

    The rejected rows, sorted by line, include `rejected`.
    """
    questions: list[Question] = []
    videos: dict[str, Video] = {}
    first_place: dict[str, tuple[int, str]] = {}
    left_out = list(rejected)
    for row in rows:
        try:
            question, video = parse(row)
            known = videos.get(video.video_id, video)
            if known != video:
                raise BadRow(
                    f"the video {video.video_id!r} lies at {video.path!r}, but at {known.path!r} by a row before"
                )
            if question.question_id in first_place:
                line, place = first_place[question.question_id]
                where = f"{place.removesuffix(': ')} on line {line}".strip()
                raise BadRow(f"question_id {question.question_id!r} is already {where}")
            first_place[question.question_id] = row.line, row.place
        except BadRow as bad:
            left_out.append(Rejected(file, row.line, f"{row.place}{bad}"))
            continue
        questions.append(question)
        videos.setdefault(video.video_id, video)
    return Annotations(questions, list(videos.values()), sorted(left_out, key=lambda rejected: rejected.line))


def question_of_clip(cells: Mapping[str, Any], option_keys: Sequence[str]) -> Question:
    """Return the question of a row with the keys of TVQA and How2QA: a clip of a video as `ts`, and a key per option.

    Raises BadRow.
    """
    video_id = video_name("vid_name", cells.get("vid_name"))
    start_seconds, end_seconds, note = clip(*split_clip(cells.get("ts")))
    return Question(
        question_id=text("qid", cells.get("qid")),
        video_id=video_id,
        question=exact_text("q", cells.get("q")),
        options=tuple(exact_text(key, cells.get(key)) for key in option_keys),
        answer_index=option_index("answer_idx", cells.get("answer_idx"), len(option_keys)),
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        note=note,
    )


def collect_split(about: About, table: Rows, parse: Callable[[Row], tuple[Question, Video]]) -> Annotations:
    """Call `collect`, and warn of a number of questions other than published, and of unusual values."""
    n_rows = len(table.rows) + len(table.rejected)
    for file in about.split_files():
        if file.name == table.file and file.n_questions not in (None, n_rows):
            logger.warning(
                "%s has %d questions; %s's has %d as published", file.name, n_rows, about.title, file.n_questions
            )
    annotations = collect(table.file, table.rows, table.rejected, parse)
    noted = [question for question in annotations.questions if question.note]
    if noted:
        example = f"{noted[0].question_id}: {noted[0].note}"
        logger.warning("%s: odd values in %d questions, used as noted (%s)", table.file, len(noted), example)
    return annotations
