"""LongVideoBench, as downloaded: the owners' `lvb_{split}.json`, or the hub's Parquet, which lacks the true frames."""

from pathlib import Path
from typing import Any

from pipeline.datasets.adapter import About, SplitFile, find_files
from pipeline.datasets.question import Annotations, Question, Video
from pipeline.datasets.readers.options import options_of
from pipeline.datasets.readers.parquet_file import read_annotation_table
from pipeline.datasets.readers.rows import Row, collect_split
from pipeline.datasets.readers.values import option_index, optional_seconds, text, video_name

name = "longvideobench"
about = About(
    title="LongVideoBench",
    splits={
        "val": (SplitFile("lvb_val.json", 1337), SplitFile("validation-00000-of-00001.parquet", 1337)),
        "test": (SplitFile("lvb_test_wo_gt.json", 5341), SplitFile("test-00000-of-00001.parquet", 5341)),
    },
    same_questions=True,
    videos="{video_path}, as in 86CxyhFV9MI.mp4: what videos.tar holds",
    published="https://huggingface.co/datasets/longvideobench/LongVideoBench (both layouts and the videos, on request)",
    licence="CC BY-NC-SA 4.0; the videos are their channels'",
    prompt="multiple_choice",
    subtitles=("subtitles",),
)

DURATIONS = ("15 s", "60 s", "600 s", "3600 s")  # maximum durations of the groups of videos
LEVELS = {
    "L1-Perception": ("S2E", "S2O", "S2A", "E2O", "O2E", "T2E", "T2O", "T2A"),
    "L2-Relation": ("E3E", "SSS", "SOS", "SAA", "T3E", "T3O", "O3O", "TOS", "TAA"),
}
CATEGORIES = tuple(category for categories in LEVELS.values() for category in categories)
# A type is "600 s TOS", its group the duration; the leaderboard also reports each category over all durations.
pooled_types = {
    name: tuple(f"{duration} {category}" for duration in DURATIONS for category in categories)
    for name, categories in {**LEVELS, **{category: (category,) for category in CATEGORIES}}.items()
}

NO_OPTION = "N/A"  # of the Parquet, which has five columns for options
OPTIONS = ("option0", "option1", "option2", "option3", "option4")
# Most videos are cut from longer ones, and subtitles have the times of these.
STARTS = "starting_timestamp_for_subtitles"
WITHHELD = -1  # as `correct_choice`, in a column of integers
REQUIRED = ("video_id", "id", "question")
KEYS = (
    *REQUIRED,
    *OPTIONS,
    "candidates",
    "correct_choice",
    "video_path",
    "duration_group",
    "question_category",
    "position",
    "subtitle_path",
    STARTS,
)


def read(path: Path, split: str) -> Annotations:
    """Return the questions of one split, with the true frames if the file has them. Raises MissingSourceError or SchemaError."""
    (file,) = find_files(about, path, split)
    options = "option0" if file.suffix.lower() == ".parquet" else "candidates"
    withheld = file.name in {split_file.name for split_file in about.splits["test"]}
    return collect_split(
        about, read_annotation_table(file, (*REQUIRED, options), KEYS), lambda row: _parse(row, withheld)
    )


def group(question_type: str) -> str:
    """Return the duration of the video, "15 s" to "3600 s"; "" for another type."""
    return next((duration for duration in DURATIONS if question_type.startswith(duration)), "")


def _parse(row: Row, withheld: bool) -> tuple[Question, Video]:
    cells = row.cells
    video_id = video_name("video_id", cells.get("video_id"))
    options = _options(cells) if OPTIONS[0] in cells else options_of("candidates", cells.get("candidates"))
    answer = cells.get("correct_choice")
    duration, category = (text(key, cells.get(key), "") for key in ("duration_group", "question_category"))
    frames, note = _frames(cells.get("position"))
    question = Question(
        question_id=text("id", cells.get("id")),
        video_id=video_id,
        question=text("question", cells.get("question")),
        options=options,
        answer_index=None if withheld and answer == WITHHELD else option_index("correct_choice", answer, len(options)),
        question_type=" ".join(filter(None, [duration and f"{duration} s", category])),
        note=note,
        moment_frames=frames,
    )
    video = Video(
        video_id,
        video_name("video_path", cells.get("video_path") or f"{video_id}.mp4"),
        subtitles=str(cells.get("subtitle_path") or ""),
        subtitles_from=optional_seconds(STARTS, cells.get(STARTS)) or 0.0,
    )
    return question, video


def _options(cells: dict[str, Any]) -> tuple[str, ...]:
    """Return the options up to the last given one; raise BadRow if one before it is missing."""
    values = [None if cells.get(key) in (NO_OPTION, "") else cells.get(key) for key in OPTIONS]
    while values and values[-1] is None:
        values.pop()
    return options_of("option", values)


def _frames(position: Any) -> tuple[tuple[int, ...], str]:
    """Return the frames that a question refers to, and a note; a row without them is kept, as only evaluation uses them."""
    if position is None:
        return (), ""
    if not isinstance(position, list) or not all(type(frame) is int and 0 <= frame < 1 << 31 for frame in position):
        return (), f"position not used: {position!r:.80} is no list of frame numbers"
    return tuple(sorted(set(position))), ""
