"""EgoSchema: the owners' `questions.json`, or the hub's Parquet; `subset_answers.json` has the answers of 500 questions."""

from pathlib import Path
from typing import Any

from pipeline.datasets.adapter import About, SplitFile, find_files
from pipeline.datasets.question import Annotations, Question, Video
from pipeline.datasets.readers.options import of_letter, options_of
from pipeline.datasets.readers.parquet_file import read_annotation_table
from pipeline.datasets.readers.rows import Row, Rows, collect_split
from pipeline.datasets.readers.text_file import read_json_object
from pipeline.datasets.readers.values import option_index, text, video_name

name = "egoschema"
about = About(
    title="EgoSchema",
    splits={"test": (SplitFile("questions.json", 5031), SplitFile("test-00000-of-00001.parquet", 5031))},
    same_questions=True,
    videos="{q_uid}.mp4, as in 001934bb-81bd-4cd8-a574-0472ef3f6678.mp4: clips of three minutes",
    published="https://github.com/egoschema/EgoSchema (json), https://huggingface.co/datasets/lmms-lab/egoschema (folder MC/)",
    licence="Ego4D's, as the owners state; the answers of all but 500 questions are withheld",
    prompt="multiple_choice",
)

ANSWERS_FILE = "subset_answers.json"  # read if it is beside the questions
OPTIONS = ("option 0", "option 1", "option 2", "option 3", "option 4")


def files(path: Path, split: str) -> list[Path]:
    """Return the annotation file and, if present, the public answers beside it. Raises MissingSourceError."""
    (file,) = find_files(about, path, split)
    answers = file.parent / ANSWERS_FILE
    return [file, answers] if answers.exists() else [file]


def read(path: Path, split: str) -> Annotations:
    """Return the questions; their id is the `q_uid`, which is also the video's name and the key in submissions.

    Raises MissingSourceError or SchemaError.
    """
    file, *answer_files = files(path, split)
    example = '{"001934bb-...": 3}, of positions of the answers'
    answers = read_json_object(answer_files[0], example) if answer_files else {}
    return collect_split(about, _rows(file), lambda row: _parse(row, answers))


def _rows(file: Path) -> Rows:
    """Return the rows of either layout, with the options as a list, as in the Parquet."""
    if file.suffix.lower() == ".parquet":
        return read_annotation_table(
            file, ("video_idx", "question", "option"), ("video_idx", "question", "option", "answer")
        )
    table = read_annotation_table(file, ("q_uid", "question", *OPTIONS), ("q_uid", "question", "answer", *OPTIONS))
    rows = []
    for row in table.rows:
        options = {"option": [row.cells.get(key) for key in OPTIONS]}
        rows.append(Row(row.line, row.cells | options, row.place))
    return Rows(table.file, table.columns, rows, table.rejected)


def _answer_index(answer: Any, n_options: int) -> int | None:
    """Return the position of the answer, given as a number from 0 (by the owners and the hub) or as an option's letter."""
    is_letter = isinstance(answer, str) and answer.strip("(). ").isalpha()
    return of_letter(answer, n_options) if is_letter else option_index("answer", answer, n_options)


def _parse(row: Row, answers: dict[str, Any]) -> tuple[Question, Video]:
    cells = row.cells
    key = "video_idx" if "video_idx" in cells else "q_uid"
    video_id = video_name(key, cells.get(key))
    options = options_of("option", cells.get("option"))
    answer = cells.get("answer")
    question = Question(
        question_id=video_id,
        video_id=video_id,
        question=text("question", cells.get("question")),
        options=options,
        answer_index=_answer_index(answers.get(video_id) if answer in (None, "") else answer, len(options)),
    )
    return question, Video(video_id, f"{video_id}.mp4")
