"""QVHighlights, as downloaded: `highlight_{split}_release.jsonl`; queries for moments, without options."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.datasets.adapter import About, SplitFile, find_files
from pipeline.datasets.question import Annotations, Moment, Question, Video
from pipeline.datasets.readers.rows import Row, collect_split, read_jsonl
from pipeline.datasets.readers.values import (
    CLIP_SECONDS,
    BadRow,
    exact_text,
    json_text,
    moments,
    seconds,
    text,
    video_name,
)

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
N_ANNOTATORS = 3


def read(path: Path, split: str) -> Annotations:
    """Return the queries of one split with their moments and ratings, which the test split does not have.

    Raises MissingSourceError or SchemaError.
    """
    (file,) = find_files(about, path, split)
    return collect_split(about, read_jsonl(file, ("qid", "query", "vid")), _parse)


class BadRatings(BadRow):
    """The ratings of this row cannot be used, but its moments can."""


def labelled_moments(cells: Mapping[str, Any]) -> tuple[tuple[Moment, ...], str]:
    """Return the true moments of a row and a note, as `moments`; none for a split without published answers."""
    return moments("relevant_windows", cells.get("relevant_windows"), cells.get("duration"))


def clip_ratings(cells: Mapping[str, Any]) -> tuple[tuple[float, ...], ...]:
    """Return three annotators' ratings of every 2 s of a video, 0 for clips that are not listed.

    Empty if one of the keys `duration`, `relevant_clip_ids` and `saliency_scores` is missing. Raises BadRatings if they do not
    fit each other or the video.
    """
    clip_numbers, scores = cells.get("relevant_clip_ids"), cells.get("saliency_scores")
    if clip_numbers is None or scores is None or cells.get("duration") is None:
        return ()
    duration = seconds("duration", cells["duration"])
    n_clips = int(duration / CLIP_SECONDS) if math.isfinite(duration) else 0
    for ratings in scores if isinstance(scores, list) else [scores]:
        if not (isinstance(ratings, list) and len(ratings) == N_ANNOTATORS and all(map(_is_rating, ratings))):
            raise BadRatings(f"saliency_scores has {json_text(ratings)}; expected [rating 1, rating 2, rating 3]")
    if not isinstance(clip_numbers, list) or len(clip_numbers) != len(scores):
        raise BadRatings(
            f"{len(scores)} saliency_scores for relevant_clip_ids {json_text(clip_numbers)}; expected one for each clip"
        )
    for number in clip_numbers:
        if type(number) is not int or not 0 <= number < n_clips:
            raise BadRatings(f"relevant_clip_ids has {json_text(number)}; expected numbers from 0 to {n_clips - 1}")
    ratings_by_clip = dict(zip(clip_numbers, scores, strict=True))
    return tuple(tuple(map(float, ratings_by_clip.get(number, (0,) * N_ANNOTATORS))) for number in range(n_clips))


def _is_rating(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e9


def _parse(row: Row) -> tuple[Question, Video]:
    cells = row.cells
    video_id = video_name("vid", cells.get("vid"))
    windows, note = labelled_moments(cells)
    ratings: tuple[tuple[float, ...], ...] = ()
    rating_note = ""
    try:
        ratings = clip_ratings(cells)
    except BadRatings:  # only the highlight metrics need them
        rating_note = (
            "ratings not used: saliency_scores are not three numbers for each of relevant_clip_ids in the video"
        )
    question = Question(
        question_id=text("qid", cells.get("qid")),
        video_id=video_id,
        question=exact_text("query", cells.get("query")),
        moments=windows,
        note="; ".join(filter(None, [note, rating_note])),
        ratings=ratings,
    )
    return question, Video(video_id, f"{video_id}.mp4")
