"""User-defined questions without options, for generated answers (`sevila ask`): `questions.jsonl`, one question per line.

JSON lines with the keys video and question, and optionally question_id, type, start_seconds and end_seconds.
"""

from pathlib import Path

from cache.errors import MissingSourceError
from pipeline.datasets.adapter import About, refuse_non_files
from pipeline.datasets.question import Annotations, Question, Video
from pipeline.datasets.readers.rows import Row, collect, read_jsonl
from pipeline.datasets.readers.values import BadRow, optional_seconds, text, video_name

name = "open_questions"
about = About(
    title="your own questions without options",
    splits={},
    videos="as the key `video` says",
    published="yours",
    licence="yours",
    prompt="",
)

FILE_NAME = "questions.jsonl"


def files(path: Path, split: str) -> list[Path]:
    """Return `path`, or the questions.jsonl in the folder `path`. Raises MissingSourceError if there is none."""
    file = path if path.is_file() else path / FILE_NAME
    refuse_non_files(file.parent, (file.name,))
    if not file.is_file() or file.suffix.lower() != ".jsonl":
        raise MissingSourceError(f"{file}: expected a file {FILE_NAME}, or another .jsonl")
    return [file]


def read(path: Path, split: str) -> Annotations:
    """Return all rows; there are no splits. Raises MissingSourceError for a missing file, SchemaError for another format."""
    (file,) = files(path, split)
    table = read_jsonl(file)
    return collect(table.file, table.rows, table.rejected, _parse)


def _parse(row: Row) -> tuple[Question, Video]:
    cells = row.cells
    if cells.get("options"):
        raise BadRow("has options; the data set `plain` asks for one of them")
    video_id = video_name("video", cells.get("video"))
    start_seconds, end_seconds = (optional_seconds(key, cells.get(key)) for key in ("start_seconds", "end_seconds"))
    question = Question(
        question_id=text("question_id", cells.get("question_id"), f"{video_id}#{row.line - 1}"),
        video_id=video_id,
        question=text("question", cells.get("question")),
        options=(),
        answer_index=None,
        question_type=text("type", cells.get("type"), ""),
        start_seconds=start_seconds,
        end_seconds=end_seconds,
    )
    return question, Video(video_id, video_id)
