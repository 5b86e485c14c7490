"""User-defined data: `questions.csv` or `questions.jsonl`, one question per row, beside a folder of videos.

CSV columns: video, question, a0, a1, ... (up to 26 options; empty trailing cells mean fewer), and optionally question_id,
answer, type, start_seconds, end_seconds, split. JSON lines: the same keys, with `options: [...]` for a0... and optionally
`moments: [[start, end], ...]`, the parts of the video that answer the question, in seconds.
`answer` is a 0-based index, a letter from A, or the exact text of an option; empty if it is not known.
"""

import logging
import re
from collections import Counter
from pathlib import Path
from typing import Any

from cache.errors import MissingSourceError, SchemaError
from pipeline.datasets.adapter import About, refuse_non_files
from pipeline.datasets.question import Annotations, Question, Video
from pipeline.datasets.readers.rows import Row, Rows, collect, read_csv, read_jsonl
from pipeline.datasets.readers.values import BadRow, moments, optional_seconds, text, video_name
from pipeline.option_letters import OPTION_LETTERS

name = "plain"
about = About(
    title="your own questions",
    splits={},  # the values of the file's column `split`
    videos="as the column `video` says",
    published="yours",
    licence="yours",
    prompt="",
    subtitles=("subtitles",),
)

FILE_NAMES = ("questions.csv", "questions.jsonl")
COLUMNS = {
    "video",
    "question",
    "options",
    "question_id",
    "answer",
    "type",
    "start_seconds",
    "end_seconds",
    "split",
    "moments",
}

REQUIRED = ("video", "question", "a0", "a1")  # of a CSV file

logger = logging.getLogger(__name__)


def files(path: Path, split: str) -> list[Path]:
    """Return `path`, or the questions.csv or questions.jsonl in the folder `path`.

    Raises MissingSourceError if there is none, or both.
    """
    if path.is_file():
        if path.suffix.lower() not in (".csv", ".jsonl"):
            raise MissingSourceError(f"{path}: ends in {path.suffix or 'nothing'}; expected .csv or .jsonl")
        return [path]
    files = [path / file_name for file_name in FILE_NAMES if (path / file_name).is_file()]
    if not files:
        refuse_non_files(path, FILE_NAMES)
    if len(files) != 1:
        problem = (
            "holds both questions.csv and questions.jsonl" if files else "holds no questions.csv or questions.jsonl"
        )
        raise MissingSourceError(f"{path}: {problem if path.is_dir() else 'no such file or folder'}; name one file")
    return files


def read(path: Path, split: str) -> Annotations:
    """Return the rows of `split`; all rows if the file has no `split` column, or if `split` is "" or "all".

    A row without question_id becomes "{video}#{n}" for the n-th row (from 0) of its video in the file, so that changes to other
    videos' rows rename nothing. Raises MissingSourceError for an unknown file or split, SchemaError for wrong columns.
    """
    (file,) = files(path, split)
    table = read_jsonl(file) if file.suffix.lower() == ".jsonl" else _with_options(file, read_csv(file, REQUIRED))
    unused = [column for column in table.columns if column not in COLUMNS]
    if unused:
        logger.warning("%s: columns not used: %s", file.name, ", ".join(unused))

    ids: dict[int, str] = {}
    rows_of_video: Counter[str] = Counter()
    for row in table.rows:
        video = str(row.cells.get("video")).strip()
        ids[row.line] = f"{video}#{rows_of_video[video]}"
        rows_of_video[video] += 1
    rows = _rows_of_split(file, table, split)
    table.rows.clear()
    rows.reverse()
    each = (rows.pop() for _ in range(len(rows)))  # a row is let go when its question stands
    return collect(table.file, each, table.rejected, lambda row: _parse(row, ids.pop(row.line)))


def _with_options(file: Path, table: Rows) -> Rows:
    """Return the table with the cells a0, a1, ... as a list `options`, without empty trailing ones."""
    columns = [column for column in table.columns if re.fullmatch(r"a\d+", column)]
    option_columns = [f"a{i}" for i in range(len(columns))]
    if set(columns) != set(option_columns) or len(columns) > len(OPTION_LETTERS):
        raise SchemaError(
            f"{file}: found the option columns {', '.join(columns)}; "
            f"expected a0, a1, ... without gaps and at most {len(OPTION_LETTERS)}"
        )
    rows = []
    for row in table.rows:
        options = [row.cells[column] for column in option_columns]
        while options and not options[-1].strip():
            options.pop()
        rows.append(Row(row.line, {**row.cells, "options": options}))
    other_columns = [column for column in table.columns if column not in option_columns]
    return Rows(table.file, other_columns, rows, table.rejected)


def _rows_of_split(file: Path, table: Rows, split: str) -> list[Row]:
    if split in ("", "all") or "split" not in table.columns:
        return [*table.rows]
    rows_of: dict[str, list[Row]] = {}
    for row in table.rows:
        rows_of.setdefault(str(row.cells.get("split") or "").strip(), []).append(row)
    if split not in rows_of:
        splits = ", ".join(sorted(map(repr, rows_of))) or "only rows that cannot be read"
        raise MissingSourceError(f"{file}: no row of split {split!r}; found {splits}; name one of them, or all")
    return rows_of[split]


def _parse(row: Row, default_id: str) -> tuple[Question, Video]:
    cells = row.cells
    video_id = video_name("video", cells.get("video"))
    options = _options(cells.get("options"))
    start_seconds, end_seconds = (optional_seconds(key, cells.get(key)) for key in ("start_seconds", "end_seconds"))
    if end_seconds is not None and end_seconds < (start_seconds or 0.0):
        raise BadRow(f"end_seconds {end_seconds} is before start_seconds {start_seconds}")
    spans, note = moments("moments", cells.get("moments") or None)
    question = Question(
        question_id=text("question_id", cells.get("question_id"), default_id),
        video_id=video_id,
        question=text("question", cells.get("question")),
        options=options,
        answer_index=_answer_index(cells.get("answer"), options),
        question_type=text("type", cells.get("type"), ""),
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        moments=spans,
        note=note,
    )
    return question, Video(video_id, video_id)


def _options(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not 2 <= len(values) <= len(OPTION_LETTERS):
        count = f"{len(values)} options" if isinstance(values, list) else "no list of options"
        raise BadRow(f"{count}, 2 to {len(OPTION_LETTERS)} were wanted")
    return tuple(text(f"option {position}", value) for position, value in enumerate(values))


def _answer_index(value: Any, options: tuple[str, ...]) -> int | None:
    """Return the one option that `value` can mean; None for no value. Raises BadRow for an ambiguous value."""
    n_options = len(options)
    if isinstance(value, int) and not isinstance(value, bool):
        meanings = {value} & set(range(n_options))
    else:
        answer = text("answer", value, "")
        if not answer:
            return None
        meanings = {position for position, option in enumerate(options) if option == answer}
        meanings |= {position for position in range(n_options) if answer in (str(position), OPTION_LETTERS[position])}
    if len(meanings) != 1:
        expected = f"an index from 0 to {n_options - 1}, a letter from A to {OPTION_LETTERS[n_options - 1]} or an option's text"
        ambiguity = f"; it could mean the options {sorted(meanings)}" if meanings else ""
        raise BadRow(f"answer is {value!r}, {expected} was wanted{ambiguity}")
    return meanings.pop()
