"""NExT-QA, multiple choice, as downloaded: `{split}.csv` beside `map_vid_vidorID.json`."""

import logging
from pathlib import Path

from cache.errors import SchemaError
from pipeline.datasets.adapter import About, SplitFile, find_files
from pipeline.datasets.question import Annotations, Question, Video
from pipeline.datasets.readers.rows import Row, collect_split, read_csv
from pipeline.datasets.readers.text_file import read_json_object
from pipeline.datasets.readers.values import exact_text, option_index, text, video_name

name = "nextqa"
about = About(
    title="NExT-QA",
    splits={
        "train": (SplitFile("train.csv", 34132),),
        "val": (SplitFile("val.csv", 4996),),
        "test": (SplitFile("test.csv", 8564),),
    },
    beside=("map_vid_vidorID.json",),
    videos="{map_vid_vidorID.json[video]}.mp4, as in 1164/4010069381.mp4",
    published="https://github.com/doc-doc/NExT-QA (annotations), https://xdshang.github.io/docs/vidor.html (videos)",
    licence="MIT, that of the repository; the videos are VidOR's",
    prompt="multiple_choice",
)
# The data set's evaluation reports seven types, "previous" pooled with "next", and names the groups Acc_C, Acc_T, Acc_D.
pooled_types: dict[str, tuple[str, ...]] = {
    "TN+TP": ("TN", "TP"),
    "Acc_C": ("CW", "CH"),
    "Acc_T": ("TN", "TP", "TC"),
    "Acc_D": ("DC", "DL", "DO"),
}

OPTIONS = ("a0", "a1", "a2", "a3", "a4")
REQUIRED = ("video", "question", "qid", "type", *OPTIONS)  # and `answer`, which a test split may not have
GROUPS = {"C": "Causal", "T": "Temporal", "D": "Descriptive"}
GROUP_OF_TYPE = {kind: GROUPS[kind[0]] for kind in ("CW", "CH", "TN", "TC", "TP", "DC", "DL", "DO")}

logger = logging.getLogger(__name__)


def read(path: Path, split: str) -> Annotations:
    """Return the questions of one split, with five options each; a video that is not in the map is at `{video}.mp4`.

    Raises MissingSourceError for a missing file, SchemaError for one of another format.
    """
    csv_file, map_file = find_files(about, path, split)
    paths = _video_paths(map_file)
    annotations = collect_split(about, read_csv(csv_file, REQUIRED), lambda row: _parse(row, paths))
    n_unmapped = sum(video.video_id not in paths for video in annotations.videos)
    if n_unmapped:
        logger.warning("%s does not have %d of %d videos", map_file.name, n_unmapped, len(annotations.videos))
    return annotations


def group(question_type: str) -> str:
    """Return Causal, Temporal or Descriptive, the three columns of the paper's tables; "" for another type."""
    return GROUP_OF_TYPE.get(question_type, "")


def _video_paths(map_file: Path) -> dict[str, str]:
    example = '{"4010069381": "1164/4010069381"}, of paths of the videos'
    paths = read_json_object(map_file, example)
    if not all(isinstance(value, str) for value in paths.values()):
        raise SchemaError(f"{map_file}: not an object like {example}")
    return paths


def _parse(row: Row, paths: dict[str, str]) -> tuple[Question, Video]:
    cells = row.cells
    video_id = video_name("video", cells["video"])
    question_type = text("type", cells["type"])
    question = Question(
        question_id=f"{question_type}_{video_id}_{text('qid', cells['qid'])}",
        video_id=video_id,
        # The official preprocessing notebook appends these to every text, without stripping (one option is "catching toy .").
        # The released weights were trained on these bytes; correcting them changes answers.
        question=exact_text("question", cells["question"]) + "?",
        options=tuple(exact_text(column, cells[column]) + "." for column in OPTIONS),
        answer_index=option_index("answer", cells.get("answer"), len(OPTIONS)),
        question_type=question_type,
    )
    return question, Video(video_id, paths.get(video_id, video_id) + ".mp4")
