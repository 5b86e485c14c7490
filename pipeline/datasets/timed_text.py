"""A folder of subtitles: what is said while is a weak label of when it is to be seen (the paper's table 13 pre-trains on such).

One `.srt` or `.vtt` file a video, of its name: `talks/a.srt` is about `talks/a`, and so is `talks/a.en.srt` unless there is a
video `talks/a.en`. Every cue becomes a query for the moment at
which it is shown. Cues of one video with the same text ("Yes.") are one query with several moments: a frame of one would be a
wrong "no" of the other. Their line breaks and markup are removed; cues that hold no word (`[Music]`) or last no time are left
out with the reason.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cache.errors import MissingSourceError, SchemaError
from pipeline.datasets.adapter import About
from pipeline.datasets.question import Annotations, Moment, Question, Rejected, Video
from pipeline.datasets.text_file import read_text
from pipeline.datasets.values import BadRow, clip

# A language as subtitles are named by, and what else players and downloaders append: a.en.vtt, a.pt-BR.srt, a.en.forced.srt.
LANGUAGE = re.compile(r"\.[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*(\.(forced|sdh|cc|hi|default|auto))?")


def video_without_language(video_id: str) -> list[str]:
    """["a"] for "a.en", the video that subtitles of one language among several belong to; else []."""
    for start in (index for index, character in enumerate(video_id) if character == "."):
        if LANGUAGE.fullmatch(video_id, start) and not video_id[:start].endswith(("/", ".")) and start:
            return [video_id[:start]]
    return []


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

SUFFIXES = (".srt", ".vtt")
LINE_END = re.compile(r"\r\n|\r|\n")  # and no other: subtitles may hold U+2028
CUT_TIMES = re.compile(r"\s*\d+:[\d:.,]*\s*-{0,2}\s*")  # a line of times that ends before "-->"
STYLE = re.compile(r"\{\\[^}]*\}")  # "{\an8}": some SubRip files place their cues so
NO_WORDS = re.compile(r"\[[^]]*\]|\([^)]*\)")  # what is heard, not said: "[Music]", "(applause)"


def files(path: Path, split: str) -> list[Path]:
    """Every subtitle file below the folder `path`, or its subfolder `split` where one is asked for; or `path`, if it is a file.

    Raises MissingSourceError if there is none.
    """
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise MissingSourceError(f"{path}: ends in {path.suffix or 'nothing'}; {' or '.join(SUFFIXES)} was wanted")
        return [path]
    folder = path / split
    if not folder.is_dir():
        below = sorted(child.name for child in path.iterdir() if child.is_dir()) if path.is_dir() else []
        there = f"subfolders there: {', '.join(below) or 'none'}" if path.is_dir() else "no such folder"
        raise MissingSourceError(f"{folder}: missing ({there}); a split is a subfolder, leave it empty for all files")
    named = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
    files = [file for file in named if file.is_file()]
    if not files:
        raise MissingSourceError(f"{folder}: holds no subtitles ({' or '.join(SUFFIXES)}), one file a video was wanted")
    return sorted(files, key=lambda file: file.relative_to(path).as_posix())


def read(path: Path, split: str) -> Annotations:
    """The cues of all files as queries, ids `{video}#{n}` by the n-th cue (from 0) of its file, rejected ones counted too.

    A video's id is its file's path below `path` without the suffix. A file that cannot be read is a rejected row, as is one
    of a video that has another. Raises MissingSourceError if there is no file.
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
                read_text(file)  # it is among the files that the annotations are identified by
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
    """The cues of one text: the number of the first one, and when each is shown."""

    number: int
    moments: list[Moment] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _queries(file: Path, file_name: str, video_id: str) -> Annotations:
    lines = LINE_END.split(read_text(file))
    of_text: dict[str, _CueText] = {}
    rejected: list[Rejected] = []
    is_vtt = file.suffix.lower() == ".vtt"
    if is_vtt and not lines[0].startswith("WEBVTT"):
        raise SchemaError(f"{file}: begins with {lines[0][:20]!r}; WEBVTT was wanted")
    for number, (line, times, payload) in enumerate(_cues(lines, is_vtt)):
        try:
            text, moment, note = _cue(times, payload, is_vtt)
        except BadRow as bad:
            rejected.append(Rejected(file_name, line, str(bad)))
            continue
        query = of_text.setdefault(text, _CueText(number))
        query.moments.append(moment)
        query.notes += filter(None, [note])
    if not of_text and not rejected:
        raise SchemaError(f"{file}: holds no cue; lines as in 00:00:01.000 --> 00:00:02.500 were wanted")
    questions = [
        Question(
            question_id=f"{video_id}#{query.number}",
            video_id=video_id,
            question=text,
            moments=tuple(query.moments),
            note="; ".join(query.notes),
        )
        for text, query in of_text.items()
    ]
    return Annotations(questions, [], rejected)


def _cues(lines: list[str], is_vtt: bool) -> Iterator[tuple[int, str, list[str]]]:
    """Yield the 1-based line of each cue's times, that line and the lines of its text; cut ones too.

    The library parses whole files as well, but leaves out what it cannot parse without a word.
    """

    def begins_block(index: int) -> bool:
        return (
            index == 0
            or not lines[index - 1].strip()
            or (lines[index - 1].strip().isdigit() and begins_block(index - 1))
        )

    def is_cut(index: int) -> bool:
        is_identifier = "-->" in "".join(lines[index + 1 : index + 2])  # a title like "10:30" above the times
        return bool(CUT_TIMES.fullmatch(lines[index])) and begins_block(index) and not is_identifier

    starts = [index for index, line in enumerate(lines) if "-->" in line or is_cut(index)]
    filled = [index for index, line in enumerate(lines) if line.strip()]
    if not is_vtt and filled and lines[filled[-1]].strip().isdigit() and begins_block(filled[-1]):
        starts.append(filled[-1])  # a file that ends behind the number of a cue
    for start, end in zip(starts, [*starts, len(lines)][1:], strict=True):
        payload = lines[start + 1 : end]
        if is_vtt:
            blank = next((index for index, line in enumerate(payload) if not line.strip()), len(payload))
            payload = payload[:blank]
        elif end < len(lines) and payload and payload[-1].strip().isdigit():
            payload.pop()  # the number of the next cue
        yield start + 1, lines[start], [line for line in payload if line.strip()]


def _cue(times: str, payload: list[str], is_vtt: bool) -> tuple[str, Moment, str]:
    """Return the text, the moment and a note of one cue. Raises BadRow."""
    import webvtt  # here, as most commands read no subtitles
    from webvtt.errors import MalformedCaptionError, MalformedFileError

    if not payload:
        raise BadRow(f"{times.strip()!r}: a cue without text; is the file cut short?")
    head = ["WEBVTT", ""] if is_vtt else ["1"]
    content = io.StringIO("\n".join([*head, times, *payload, ""]))
    try:
        captions = webvtt.from_buffer(content, format="vtt" if is_vtt else "srt").captions
    except (MalformedFileError, MalformedCaptionError) as error:
        raise BadRow(f"{times.strip()!r}: not the times of a cue ({error})") from error
    if len(captions) != 1:
        wanted = "00:00:01.000 --> 00:00:02.500" if is_vtt else "00:00:01,000 --> 00:00:02,500"
        raise BadRow(f"{times.strip()!r}: not the times of a cue; two as in {wanted} were wanted")
    start, end, note = clip(_seconds(captions[0].start), _seconds(captions[0].end))
    assert start is not None and end is not None
    text = " ".join(STYLE.sub("", html.unescape(captions[0].text)).split())
    if not any(character.isalnum() for character in NO_WORDS.sub("", text)):
        raise BadRow(f"{text!r}: no words")
    if start == end:
        raise BadRow(f"{times.strip()!r}: the cue lasts no time")
    return text, Moment(start, end), note


def _seconds(timestamp: str) -> float:
    hours, minutes, seconds = timestamp.split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
