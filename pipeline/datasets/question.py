"""The records of a data set, whatever its files look like: questions, their videos, and the rows that could not be used."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

# Official VLEP data set: one question for every item. The models are trained on this very text.
NEXT_EVENT_QUESTION = "Upon observing the provided frames, what is the most probable subsequent event?"


@dataclass(frozen=True, slots=True)
class Moment:
    """A part of a video, in seconds from the video's beginning, that shows what a question is about."""

    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, slots=True)
class Question:
    """One question about one video, or about the part of it between `start_seconds` and `end_seconds`.

    `answer_index` is the 0-based position of the right option, None where the data set does not say (test splits).
    A query that asks for moments has no `options`. A bound that is None is the video's own beginning or end.
    `question_type` is the data set's own word, "" for none. `moments` are empty where the data set does not give them.
    `moment_frames` are frames of the video, by their number from 0, that show it, where the data set gives these instead: when
    they are shown, only the video says.
    `ratings` say how well each 2 s of the video show it, by several annotators, from the video's beginning; empty likewise.
    `question_group` is what results are reported under, as the data set's adapter says; "" until the questions are listed.
    `note` says what was made of odd values in the row (nan or reversed times), "" where nothing was odd.
    """

    question_id: str
    video_id: str
    question: str
    options: tuple[str, ...] = ()
    answer_index: int | None = None
    question_type: str = ""
    start_seconds: float | None = None
    end_seconds: float | None = None
    moments: tuple[Moment, ...] = ()
    note: str = ""
    ratings: tuple[tuple[float, ...], ...] = ()
    moment_frames: tuple[int, ...] = ()
    question_group: str = ""

    @property
    def clip_id(self) -> str:
        """The id of the part of the video that it is asked about, as the function `clip_id` makes it."""
        return clip_id(self.video_id, self.start_seconds, self.end_seconds)


class QuestionClip(NamedTuple):
    """What a question is about, without its text: of a large table, texts take most."""

    question_id: str
    video_id: str
    clip_id: str
    start_seconds: float | None
    end_seconds: float | None


@dataclass(frozen=True)
class Video:
    """A video by its id and its path below the videos folder, as the data set names it (maybe without an extension).

    `other_paths` are where it may lie instead, for data sets whose videos are handed out in more than one layout.
    `subtitles` names its file of subtitles where the annotations do, and `subtitles_from` is the time of the file, in seconds,
    at which the video begins.
    """

    video_id: str
    path: str
    other_paths: tuple[str, ...] = ()
    subtitles: str = field(default="", compare=False)
    subtitles_from: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Rejected:
    """An annotation row that could not be used: file name, 1-based line on which the row begins, and why."""

    file: str
    line: int
    reason: str


@dataclass(frozen=True)
class Annotations:
    """One split of a data set: questions in file order, each video they need once, and the rows left out, by line."""

    questions: list[Question]
    videos: list[Video]
    rejected: list[Rejected]


def clip_id(video_id: str, start_seconds: float | None, end_seconds: float | None) -> str:
    """The video's id, followed by the bounds where there are any: "abc", "abc[2.5-11.2]", "abc[2.5-]", "abc[-11.2]".

    Bounds are written with `repr`, the shortest text that reads back as the same float, so equal ids mean equal clips.
    Raises ValueError for a bound that is nan or infinite.
    """
    if start_seconds is None and end_seconds is None:
        return video_id
    return f"{video_id}[{_bound(start_seconds)}-{_bound(end_seconds)}]"


def _bound(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if not math.isfinite(seconds):
        raise ValueError(f"a clip bound is {seconds} seconds; a finite number or None was wanted")
    return repr(float(seconds) + 0.0)  # + 0.0 turns -0.0 into 0.0: the same instant must not have two ids
