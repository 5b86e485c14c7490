"""Subtitles of a data set's videos, in the formats in which they are published.

`.srt` and `.vtt`, and LongVideoBench's `.json`: a list of `{"timestamp": [start, end], "text"}` in seconds, or of
`{"start", "end", "line"}` with times as in 00:00:01.500.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np

from cache.errors import MissingSourceError, SchemaError
from pipeline.datasets.adapter import About
from pipeline.datasets.question import Video
from pipeline.datasets.readers.rows import json_items
from pipeline.datasets.readers.text_file import read_text
from pipeline.datasets.readers.values import BadRow, clip, exact_text, seconds

TIMED_TEXT = (".srt", ".vtt")
SUFFIXES = (*TIMED_TEXT, ".json")
# The language in a file name, and the suffixes of players and downloaders: a.en.vtt, a.pt-BR.srt, a.en.forced.srt.
LANGUAGE = re.compile(r"\.[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*(\.(forced|sdh|cc|hi|default|auto))?")
LINE_END = re.compile(r"\r\n|\r|\n")  # no others: subtitles may contain U+2028
CUT_TIMES = re.compile(r"\s*\d+:[\d:.,]*\s*-{0,2}\s*")  # a line of times that ends before "-->"
STYLE = re.compile(r"\{\\[^}]*\}")  # "{\an8}": the position of a cue in some SubRip files


class Cue(NamedTuple):
    """A piece of text and its display time, in seconds from the start of the video; the end may be infinite."""

    start_seconds: float
    end_seconds: float
    text: str


class Cues:
    """The subtitles of one video."""

    def __init__(self, start_seconds: np.ndarray, end_seconds: np.ndarray, texts: np.ndarray) -> None:
        """Args: [N] each. A cue of less than a second lasts one second around its middle, as in LongVideoBench."""
        with np.errstate(invalid="ignore"):  # the middle of a cue without an end, which is not used
            middle, is_short = (start_seconds + end_seconds) / 2, end_seconds - start_seconds < 1
        self._start = np.where(is_short, middle - 0.5, start_seconds)
        self._end = np.where(is_short, middle + 0.5, end_seconds)
        self._texts = texts

    def shown_at(self, seconds: float) -> str:
        """Return the texts displayed at this time, joined by spaces, as in LongVideoBench's loader."""
        return " ".join(self._texts[(self._start <= seconds) & (seconds < self._end)])


NO_CUES = Cues(np.empty(0), np.empty(0), np.empty(0, object))


def video_without_language(video_id: str) -> list[str]:
    """Return ["a"] for "a.en", the video of subtitles in one of several languages; else []."""
    for start in (index for index, character in enumerate(video_id) if character == "."):
        if LANGUAGE.fullmatch(video_id, start) and not video_id[:start].endswith(("/", ".")) and start:
            return [video_id[:start]]
    return []


def subtitle_files(about: About, path: Path) -> dict[Path, str]:
    """Return every subtitle file that belongs to the annotations at `path`, a folder or file, with its name below its folder.

    Raises MissingSourceError if there is no such folder.
    """
    parent = path if path.is_dir() else path.parent
    folders = [parent / name for name in about.subtitles]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise MissingSourceError(
            f"{' or '.join(map(str, folders))}: no such folder; expected the subtitles of {about.title} there, or "
            "list_questions.subtitles = false"
        )
    files = (file for file in sorted(folder.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file())
    return {file: file.relative_to(folder).as_posix() for file in files}


def files_of_videos(videos: Iterable[Video], names: Mapping[Path, str]) -> dict[str, Path]:
    """Return the subtitle file of each video that has one, by video id: as in the annotations, or by the video's name."""
    by_name = {name: file for file, name in names.items()}
    stems = {name: name[: -len(file.suffix)] for file, name in names.items()}
    by_stem = {other: by_name[name] for name, stem in reversed(stems.items()) for other in video_without_language(stem)}
    by_stem |= {stem: by_name[name] for name, stem in reversed(stems.items())}
    find_name, find_stem = _normalized_lookup(by_name), _normalized_lookup(by_stem)
    files: dict[str, Path] = {}
    for video in videos:
        path_stem = video.path.removesuffix(Path(video.path).suffix)
        candidates = (find_name(video.subtitles), *map(find_stem, (video.video_id, video.path, path_stem)))
        file = next(filter(None, candidates), None)
        if file is not None:
            files[video.video_id] = file
    return files


def _normalized_lookup(files: Mapping[str, Path]) -> Callable[[str], Path | None]:
    """Return a lookup by exact name, else by the name in NFC: file systems of Macs may store another Unicode form."""
    composed = {normalize("NFC", name): file for name, file in files.items()}
    return lambda name: files.get(name) or composed.get(normalize("NFC", name))


def read_cues(file: Path, from_seconds: float = 0.0) -> list[Cue]:
    """Return the cues of a file that have a text; times are relative to `from_seconds` in the file, the start of the video.

    Raises SchemaError, with the line, for an invalid cue.
    """
    cues = list(_json_cues(file) if file.suffix.lower() == ".json" else _timed_cues(file))
    return [Cue(start - from_seconds, end - from_seconds, text) for start, end, text in cues]


def _json_cues(file: Path) -> Iterator[Cue]:
    for number, line, item in json_items(file, read_text(file, "file of subtitles")):
        try:
            cue = _json_cue(item)
        except BadRow as bad:
            raise SchemaError(f"{file}: cue {number} on line {line}: {bad}") from bad
        if cue.text:
            yield cue


def _json_cue(item: Any) -> Cue:
    if not isinstance(item, dict):
        raise BadRow(
            f"a JSON {type(item).__name__}; expected an object with timestamp and text, or start, end and line"
        )
    times = item.get("timestamp", [item.get("start"), item.get("end")])
    if not isinstance(times, list) or len(times) != 2:
        raise BadRow(f"timestamp is {times!r:.80}; expected [start, end]")
    start = _json_seconds("start", times[0])
    end = math.inf if times[1] is None else _json_seconds("end", times[1])  # null: to the video's end
    words = item.get("text", item.get("line"))
    text = exact_text("text", words) if words not in (None, "") else ""
    return Cue(min(start, end), max(start, end), " ".join(text.split()))


def _json_seconds(key: str, value: Any) -> float:
    is_clock = isinstance(value, str) and re.fullmatch(r"\d+:\d+:\d+(\.\d+)?", value)
    number = _seconds(value) if is_clock else seconds(key, value)
    if not math.isfinite(number):
        raise BadRow(f"{key} is {value!r}; expected seconds, or hours:minutes:seconds as in 00:01:02.500")
    return number


def _timed_cues(file: Path) -> Iterator[Cue]:
    cues = list(written_cues(file))
    for line, times, payload in cues:
        try:
            cue = parsed_cue(times, payload, file)[0] if payload else None
        except BadRow as bad:
            raise SchemaError(f"{file}: line {line}: {bad}") from bad
        if cue and cue.text:
            yield cue
    if not cues and file.suffix.lower() == ".srt" and read_text(file).strip():
        raise SchemaError(
            f"{file}: line 1: no cue begins here or below; expected times as in 00:00:01,000 --> 00:00:02,500"
        )


def written_cues(file: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Yield, for each cue, truncated ones included, the 1-based number of its line of times, that line, and its text lines.

    Raises MissingSourceError or SchemaError for another file.
    """
    lines = LINE_END.split(read_text(file))
    is_vtt = file.suffix.lower() == ".vtt"
    if is_vtt and not lines[0].startswith("WEBVTT"):
        raise SchemaError(f"{file}: begins with {lines[0][:20]!r}; WEBVTT was wanted")
    yield from _cues(lines, is_vtt)


def _cues(lines: list[str], is_vtt: bool) -> Iterator[tuple[int, str, list[str]]]:
    # webvtt also parses whole files, but silently skips what it cannot parse.

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
        starts.append(filled[-1])  # the file ends after the number of a cue
    for start, end in zip(starts, [*starts, len(lines)][1:], strict=True):
        payload = lines[start + 1 : end]
        if is_vtt:
            blank = next((index for index, line in enumerate(payload) if not line.strip()), len(payload))
            payload = payload[:blank]
        elif end < len(lines) and payload and payload[-1].strip().isdigit():
            payload.pop()  # the number of the next cue
        yield start + 1, lines[start], [line for line in payload if line.strip()]


def parsed_cue(times: str, payload: list[str], file: Path) -> tuple[Cue, str]:
    """Return one cue of a file and a note on unusual values, "" for none. Raises BadRow."""
    import webvtt  # imported here because most commands read no subtitles
    from webvtt.errors import MalformedCaptionError, MalformedFileError

    is_vtt = file.suffix.lower() == ".vtt"
    if not payload:
        raise BadRow(f"{times.strip()!r}: a cue without text; is the file cut short?")
    head = ["WEBVTT", ""] if is_vtt else ["1"]
    content = io.StringIO("\n".join([*head, times, *payload, ""]))
    try:
        captions = webvtt.from_buffer(content, format="vtt" if is_vtt else "srt").captions
    except (MalformedFileError, MalformedCaptionError) as error:
        raise BadRow(f"{times.strip()!r}: not the times of a cue ({error})") from error
    if len(captions) != 1:
        expected = "00:00:01.000 --> 00:00:02.500" if is_vtt else "00:00:01,000 --> 00:00:02,500"
        raise BadRow(f"{times.strip()!r}: not the times of a cue; two as in {expected} were wanted")
    start, end, note = clip(_seconds(captions[0].start), _seconds(captions[0].end))
    assert start is not None and end is not None
    text = " ".join(STYLE.sub("", html.unescape(captions[0].text)).split())
    return Cue(start, end, text), note


def _seconds(timestamp: str) -> float:
    hours, minutes, seconds = timestamp.split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
