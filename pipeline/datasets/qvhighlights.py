"""QVHighlights, as downloaded: `highlight_{split}_release.jsonl`; queries for moments, without options."""

from pathlib import Path

from pipeline.datasets.adapter import About, Headline, SplitFile, find_files
from pipeline.datasets.question import Annotations, Question, Video
from pipeline.datasets.rows import Row, collect_split, read_jsonl
from pipeline.datasets.values import clip_ratings, exact_text, moments, text, video_name

name = "qvhighlights"
about = About(
    title="QVHighlights",
    splits={
        "train": (SplitFile("highlight_train_release.jsonl", 7218),),
        "val": (SplitFile("highlight_val_release.jsonl", 1550),),
        "test": (SplitFile("highlight_test_release.jsonl", 1542),),
    },
    videos="{vid}.mp4, clips of at most 150 s cut from YouTube videos",
    published="https://github.com/jayleicn/moment_detr (annotations and a link to the videos)",
    licence="CC BY-NC-SA 4.0",
    prompt="moment",
)
headline: Headline = "overall"
pooled_types: dict[str, tuple[str, ...]] = {}


def files(path: Path, split: str) -> list[Path]:
    """The annotation file that `read` reads. Raises MissingSourceError if it is not there."""
    return find_files(about, path, split)


def read(path: Path, split: str) -> Annotations:
    """The queries of one split with their moments and ratings, none in the test split.

    Raises MissingSourceError or SchemaError.
    """
    (file,) = files(path, split)
    return collect_split(about, read_jsonl(file, ("qid", "query", "vid")), _parse)


def group(question_type: str) -> str:
    """Always "": queries have no types."""
    return ""


def _parse(row: Row) -> tuple[Question, Video]:
    cells = row.cells
    video_id = video_name("vid", cells.get("vid"))
    found, note = moments("relevant_windows", cells.get("relevant_windows"), cells.get("duration"))
    ratings, why_none = clip_ratings(cells)
    question = Question(
        question_id=text("qid", cells.get("qid")),
        video_id=video_id,
        question=exact_text("query", cells.get("query")),
        options=(),
        answer_index=None,
        question_type="",
        start_seconds=None,
        end_seconds=None,
        moments=found,
        note="; ".join(filter(None, [note, why_none])),
        ratings=ratings,
    )
    return question, Video(video_id, f"{video_id}.mp4")
