"""A folder of subtitles as weak moment labels, on the assumption that speech matches the picture (the paper's table 13).

One `.srt` or `.vtt` file per video, with its name: `talks/a.srt` is about `talks/a`, and so is `talks/a.en.srt` unless there is
a video `talks/a.en`. Every cue becomes a query for the moment at which it is displayed. Cues of one video with the same text
("Yes.") are one query with several moments, or frames of one would be wrong negatives of the other. Line breaks and markup are
removed; cues without words (`[Music]`) or of no duration are rejected with the reason.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cache.errors import MissingSourceError, SchemaError
from pipeline.datasets.adapter import About
from pipeline.datasets.question import Annotations, Moment, Question, Rejected, Video
from pipeline.datasets.readers.subtitles import TIMED_TEXT, Cue, parsed_cue, video_without_language, written_cues
from pipeline.datasets.readers.text_file import read_text
from pipeline.datasets.readers.values import BadRow


def _name_says(file_name: str) -> list[str]:
    return video_without_language(file_name[: file_name.rindex(".")])


name = "timed_text"
about = About(
    title="subtitles as weak moment labels",
    splits={},  # the folder's subfolders
    videos="named as their subtitles: talks/a.srt, or talks/a.en.srt, is of talks/a.mp4, or of an a.mp4 anywhere below the "
    "videos folder",
    published="yours",
    licence="yours",
    prompt="moment",
    name_says=_name_says,
)

NO_WORDS = re.compile(r"\[[^]]*\]|\([^)]*\)")  # sounds: "[Music]", "(applause)"


def files(path: Path, split: str) -> list[Path]:
    """Return every subtitle file below the folder `path`, or below its subfolder `split` if given; or `path` if it is a file.

    Raises MissingSourceError if there is none.
    """
    if path.is_file():
        if path.suffix.lower() not in TIMED_TEXT:
            raise MissingSourceError(f"{path}: ends in {path.suffix or 'nothing'}; expected {' or '.join(TIMED_TEXT)}")
        return [path]
    folder = path / split
    if not folder.is_dir():
        subfolders = sorted(child.name for child in path.iterdir() if child.is_dir()) if path.is_dir() else []
        content = f"subfolders there: {', '.join(subfolders) or 'none'}" if path.is_dir() else "no such folder"
        raise MissingSourceError(f"{folder}: missing ({content}); a split is a subfolder, leave it empty for all files")
    named = (file for file in folder.rglob("*") if file.suffix.lower() in TIMED_TEXT and not file.name.startswith("."))
    files = [file for file in named if file.is_file()]
    if not files:
        raise MissingSourceError(
            f"{folder}: holds no subtitles ({' or '.join(TIMED_TEXT)}); expected one file per video"
        )
    return sorted(files, key=lambda file: file.relative_to(path).as_posix())


def read(path: Path, split: str) -> Annotations:
    """Return the cues of all files as queries, with ids `{video}#{n}` for the n-th cue (from 0) of a file, rejected ones counted.

    A video's id is its file's path below `path` without the suffix. A file that cannot be read is a rejected row, as is a
    second file of a video. Raises MissingSourceError if there is no file.
    """
    root = path.parent if path.is_file() else path
    questions: list[Question] = []
    videos: dict[str, Video] = {}
    rejected: list[Rejected] = []
    for file in files(path, split):
        file_name = file.relative_to(root).as_posix()
        video_id = file_name[: -len(file.suffix)]
        if video_id in videos:
            with suppress(SchemaError):
                read_text(file)  # records its digest, which is part of the annotations' identity
            rejected.append(
                Rejected(file_name, 1, f"the video {video_id!r} has another file of subtitles, which is used")
            )
            continue
        try:
            queries = _queries(file, file_name, video_id)
        except (SchemaError, MissingSourceError) as error:
            rejected.append(Rejected(file_name, 1, str(error).removeprefix(f"{file}: ")))
            continue
        videos[video_id] = Video(video_id, video_id, tuple(video_without_language(video_id)))
        questions += queries.questions
        rejected += queries.rejected
    return Annotations(questions, list(videos.values()), rejected)


@dataclass
class _CueText:
    """The cues with one text: the number of the first, and the moment of each."""

    number: int
    moments: list[Moment] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _queries(file: Path, file_name: str, video_id: str) -> Annotations:
    queries: dict[str, _CueText] = {}
    rejected: list[Rejected] = []
    for number, (line, times, payload) in enumerate(written_cues(file)):
        try:
            cue, note = parsed_cue(times, payload, file)
            moment = _moment_of(times, cue)
        except BadRow as bad:
            rejected.append(Rejected(file_name, line, str(bad)))
            continue
        query = queries.setdefault(cue.text, _CueText(number))
        query.moments.append(moment)
        query.notes += filter(None, [note])
    if not queries and not rejected:
        raise SchemaError(f"{file}: holds no cue; lines as in 00:00:01.000 --> 00:00:02.500 were wanted")
    questions = [
        Question(
            question_id=f"{video_id}#{query.number}",
            video_id=video_id,
            question=text,
            moments=tuple(query.moments),
            note="; ".join(query.notes),
        )
        for text, query in queries.items()
    ]
    return Annotations(questions, [], rejected)


def _moment_of(times: str, cue: Cue) -> Moment:
    """Return the moment of a cue. Raises BadRow for a cue without words or duration."""
    if not any(character.isalnum() for character in NO_WORDS.sub("", cue.text)):
        raise BadRow(f"{cue.text!r}: no words")
    if cue.start_seconds == cue.end_seconds:
        raise BadRow(f"{times.strip()!r}: the cue lasts no time")
    return Moment(cue.start_seconds, cue.end_seconds)
