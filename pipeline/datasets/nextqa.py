"""NExT-QA, multiple choice, as downloaded: `{split}.csv` beside `map_vid_vidorID.json`."""

import json
import logging
from pathlib import Path

from cache.errors import MissingSourceError, SchemaError
from pipeline.datasets.rows import BadRow, Row, collect, read_csv, read_text
from pipeline.question import Annotations, Question, Video

name = "nextqa"

OPTIONS = ("a0", "a1", "a2", "a3", "a4")
INDICES = ("0", "1", "2", "3", "4")
REQUIRED = ("video", "question", "qid", "type", *OPTIONS)  # `answer` too, but a test split may come without it
PUBLISHED_QUESTIONS = {"train": 34132, "val": 4996, "test": 8564}
GROUPS = {"C": "Causal", "T": "Temporal", "D": "Descriptive"}
GROUP_OF_TYPE = {kind: GROUPS[kind[0]] for kind in ("CW", "CH", "TN", "TC", "TP", "DC", "DL", "DO")}

logger = logging.getLogger(__name__)


def files(path: Path, split: str) -> list[Path]:
    """The annotation files that `read` reads. Raises MissingSourceError if one is not in the folder `path`."""
    wanted = [path / f"{split}.csv", path / "map_vid_vidorID.json"]
    for file in wanted:
        if not file.is_file():
            found = ", ".join(sorted(other.name for other in path.glob("*.csv"))) if path.is_dir() else "no such folder"
            raise MissingSourceError(
                f"{file}: missing (found: {found or 'no .csv at all'}); "
                "NExT-QA is a folder with train.csv, val.csv or test.csv and map_vid_vidorID.json, as downloaded"
            )
    return wanted


def read(path: Path, split: str) -> Annotations:
    """The questions of one split, five options each; a video that the map lacks is expected at `{video}.mp4`.

    Raises MissingSourceError or SchemaError if a file is missing or is not what its name promises.
    """
    csv_file, map_file = files(path, split)
    paths = _video_paths(map_file)
    table = read_csv(csv_file, REQUIRED)

    n_found = len(table.rows) + len(table.rejected)
    n_published = PUBLISHED_QUESTIONS.get(split, n_found)
    if n_found != n_published:
        logger.warning("%s has %d questions; NExT-QA's %s split has %d", csv_file.name, n_found, split, n_published)
    annotations = collect(table.file, table.rows, table.rejected, lambda row: _parse(row, paths))
    n_unmapped = sum(video.video_id not in paths for video in annotations.videos)
    if n_unmapped:
        logger.warning("%s does not have %d of %d videos", map_file.name, n_unmapped, len(annotations.videos))
    return annotations


def group(question_type: str) -> str:
    """Causal, Temporal or Descriptive, the three columns of the paper's tables; "" for a type NExT-QA does not have."""
    return GROUP_OF_TYPE.get(question_type, "")


def _video_paths(map_file: Path) -> dict[str, str]:
    try:
        paths = json.loads(read_text(map_file))
    except json.JSONDecodeError as error:
        raise SchemaError(f"{map_file}: not JSON ({error}); download it again") from error
    if not isinstance(paths, dict) or not all(isinstance(value, str) for value in paths.values()):
        raise SchemaError(f'{map_file}: not an object of video -> path like {{"4010069381": "1164/4010069381"}}')
    return paths


def _parse(row: Row, paths: dict[str, str]) -> tuple[Question, Video]:
    for column in REQUIRED:
        if not row.cells[column].strip():
            raise BadRow(f"{column} is empty")
    video_id, qid, question_type = (row.cells[column].strip() for column in ("video", "qid", "type"))
    question = Question(
        question_id=f"{question_type}_{video_id}_{qid}",
        video_id=video_id,
        # The official preprocessing notebook appends these to every text, unconditionally and without stripping (one
        # option is "catching toy ."). The released weights were trained on those bytes: mending them changes answers.
        question=row.cells["question"] + "?",
        options=tuple(row.cells[column] + "." for column in OPTIONS),
        answer_index=_answer_index(row.cells.get("answer", "").strip()),
        question_type=question_type,
        start_seconds=None,
        end_seconds=None,
    )
    return question, Video(video_id, paths.get(video_id, video_id) + ".mp4")


def _answer_index(text: str) -> int | None:
    if not text:
        return None
    if text not in INDICES:
        raise BadRow(f"answer is {text!r}, an index from 0 to {len(OPTIONS) - 1} was wanted")
    return INDICES.index(text)
