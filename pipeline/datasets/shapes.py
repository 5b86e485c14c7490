"""Shapes, the embedded data set that `sevila demo` writes: `shapes_{split}.jsonl` beside a folder of rendered videos.

The splits train, val, test and long (videos of ten minutes) hold multiple-choice questions; the split moments holds queries
without options. All have true moments.
"""

from pathlib import Path

from pipeline.datasets.adapter import About, SplitFile, find_files
from pipeline.datasets.question import Annotations, Question, Video
from pipeline.datasets.readers.rows import Row, collect_split, read_jsonl
from pipeline.datasets.readers.values import moments, option_index, text, video_name

name = "shapes"
about = About(
    title="Shapes",
    splits={
        split: (SplitFile(f"shapes_{split}.jsonl", None),) for split in ("train", "val", "test", "moments", "long")
    },
    videos="{video}.mp4",
    published="rendered by `sevila demo`",
    licence="Apache 2.0, as this project",
    prompt="",  # multiple_choice; the split moments is of kind moment
    subtitles=("timed_text",),
)


def read(path: Path, split: str) -> Annotations:
    """Return the questions or queries of one split, with their moments. Raises MissingSourceError or SchemaError."""
    (file,) = find_files(about, path, split)
    return collect_split(about, read_jsonl(file, ("question_id", "video", "question")), _parse)


def _parse(row: Row) -> tuple[Question, Video]:
    cells = row.cells
    video_id = video_name("video", cells.get("video"))
    options = cells.get("options") or []
    spans, note = moments("moments", cells.get("moments"))
    question = Question(
        question_id=text("question_id", cells.get("question_id")),
        video_id=video_id,
        question=text("question", cells.get("question")),
        options=tuple(text(f"option {number}", option) for number, option in enumerate(options)),
        answer_index=option_index("answer", cells.get("answer"), len(options)),
        question_type=text("type", cells.get("type"), ""),
        moments=spans,
        note=note,
    )
    return question, Video(video_id, f"{video_id}.mp4")
