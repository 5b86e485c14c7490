"""The files of the official SeViLA code, `{split}.json`: one JSON list per split, with the same keys for all six data sets.

Its preprocessing writes video, qid, num_option, question, a0, ..., answer and, for a question about a part of the video, start
and end; for QVHighlights query, duration and relevant_windows. The ids identify the data set.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from pipeline.datasets import nextqa, star, tvqa, vlep
from pipeline.datasets.adapter import About, Headline, SplitFile, find_files
from pipeline.datasets.question import NEXT_EVENT_QUESTION, Annotations, Question, Video
from pipeline.datasets.readers.rows import Row, collect_split, read_json_list
from pipeline.datasets.readers.values import BadRow, clip, exact_text, moments, option_index, text, video_name

name = "sevila_json"
about = About(
    title="re-formatted files of the official SeViLA code",
    splits={split: (SplitFile(f"{split}.json", None),) for split in ("train", "val", "test")},
    videos="as in the original data set",
    published="https://github.com/Yui010206/SeViLA (sevila_data: the notebook that writes them)",
    licence="that of the original data set",
    prompt="",  # next_event for VLEP, moment for QVHighlights, else multiple_choice
)
pooled_types = nextqa.pooled_types

MAX_OPTIONS = 26


def headline(question_types: Collection[str]) -> Headline:
    """Return the headline of the original data set: for STAR the mean of its four types."""
    is_star = bool(question_types) and set(question_types) <= set(star.TYPES)
    return star.headline if is_star else "overall"


def read(path: Path, split: str) -> Annotations:
    """Return the questions of one file. Raises MissingSourceError or SchemaError."""
    (file,) = find_files(about, path, split)
    return collect_split(about, read_json_list(file, ("video", "qid")), _parse)


def group(question_type: str) -> str:
    """Return the group of the type in the original data set; "" for none."""
    groups = (nextqa.group(question_type), star.group(question_type), vlep.group(question_type))
    return next(filter(None, groups), question_type if question_type in tvqa.SHOWS.values() else "")


def _parse(row: Row) -> tuple[Question, Video]:
    cells = row.cells
    question_id = text("qid", cells.get("qid"))
    video_id = video_name("video", cells.get("video"))
    # The same tests of ids as in the official data set code.
    if "QVHighlight" in question_id:
        return _query(question_id, video_id, cells), Video(video_id, f"{video_id}.mp4")
    is_vlep = "VLEP" in question_id
    options = _options(cells)
    start_seconds, end_seconds, note = (None, None, "")
    if "start" in cells or "end" in cells:
        start_seconds, end_seconds, note = clip(cells.get("start"), cells.get("end"))
    question = Question(
        question_id=question_id,
        video_id=video_id,
        question=NEXT_EVENT_QUESTION if is_vlep else exact_text("question", cells.get("question")),
        options=options,
        answer_index=option_index("answer", cells.get("answer"), len(options)),
        question_type=_question_type(question_id, video_id),
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        note=note,
    )
    if is_vlep:
        return question, vlep.video(video_id)
    if tvqa.show_prefix(video_id):
        return question, Video(video_id, f"{video_id}.mp4", tvqa.clip_paths(video_id))
    return question, Video(video_id, f"{video_id}.mp4")


def _query(question_id: str, video_id: str, cells: dict[str, Any]) -> Question:
    spans, note = moments("relevant_windows", cells.get("relevant_windows"), cells.get("duration"))
    query = exact_text("query", cells.get("query"))
    return Question(question_id, video_id, query, moments=spans, note=note)


def _options(cells: dict[str, Any]) -> tuple[str, ...]:
    """Return the first `num_option` of a0, a1, ...; all if that key is missing (some versions of VLEP)."""
    count = cells.get("num_option")
    if count is None:
        count = next((index for index in range(MAX_OPTIONS) if f"a{index}" not in cells), MAX_OPTIONS)
    if type(count) is not int or not 2 <= count <= MAX_OPTIONS:
        raise BadRow(f"{count!r} options, 2 to {MAX_OPTIONS} were wanted")
    return tuple(exact_text(f"a{index}", cells.get(f"a{index}")) for index in range(count))


def _question_type(question_id: str, video_id: str) -> str:
    """Return the type from the id (NExT-QA, STAR), VLEP's source or TVQA's show from the clip's name, else ""."""
    prefix = question_id.split("_")[0]
    if nextqa.group(prefix) or star.group(prefix):
        return prefix
    if prefix == "VLEP":
        return vlep.source(video_id)
    return tvqa.SHOWS.get(tvqa.show_prefix(video_id), "")
