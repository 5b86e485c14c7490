"""The records of a data set, independent of its files: questions, their videos, and rejected rows."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

# The question of every item in the official VLEP data set; the models are trained on this exact text.
NEXT_EVENT_QUESTION = "Upon observing the provided frames, what is the most probable subsequent event?"


@dataclass(frozen=True, slots=True)
class Moment:
    """A part of a video, in seconds from the video's beginning, that shows what a question is about."""

    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, slots=True)
class Question:
    """One question about one video, or about the part of it between `start_seconds` and `end_seconds`.

    `answer_index` is the 0-based position of the correct option, None if the data set does not give it (test splits).
    A query for moments has no `options`. A bound of None is the start or end of the video.
    `question_type` is the data set's name of the type, "" for none. `moments` are empty if the data set does not give them.
    `moment_frames` are the moments as frame numbers, from 0, if the data set gives these instead of times.
    `ratings` are several annotators' ratings of each 2 s of the video, from its start; empty if the data set has none.
    `question_group` is the group under which results are reported, by the data set's adapter; "" until questions are listed.
    `note` states how unusual values of the row (nan or reversed times) were interpreted; "" if there are none.
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

    def problem(self) -> str:
        """Return why the right option cannot be one of the question's; empty if it can be, or is not known."""
        if self.answer_index is None or self.answer_index < len(self.options):
            return ""
        return f"has the right option {self.answer_index}, from 0, of {len(self.options)}"

    @property
    def clip_id(self) -> str:
        """The id of the part of the video that the question is about, from the function `clip_id`."""
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
    """A video's id and its path below the videos folder, as in the data set (possibly without an extension).

    `other_paths` are alternative paths, for data sets that are published in more than one layout.
    `subtitles` is the name of its subtitle file, if the annotations give it, and `subtitles_from` the time in that file, in
    seconds, at which the video starts.
    """

    video_id: str
    path: str
    other_paths: tuple[str, ...] = ()
    subtitles: str = field(default="", compare=False)
    subtitles_from: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Rejected:
    """An annotation row that cannot be used: file name, 1-based first line of the row, and the reason."""

    file: str
    line: int
    reason: str


@dataclass(frozen=True)
class Annotations:
    """One split of a data set: questions in file order, each of their videos once, and the rejected rows by line."""

    questions: list[Question]
    videos: list[Video]
    rejected: list[Rejected]


def clip_id(video_id: str, start_seconds: float | None, end_seconds: float | None) -> str:
    """Return the video's id, followed by the bounds, if any: "abc", "abc[2.5-11.2]", "abc[2.5-]", "abc[-11.2]".

    Bounds are written with `repr`, the shortest text that parses to the same float, so equal ids mean equal clips.
    Raises ValueError for a bound that is nan or infinite.
    """
    if start_seconds is None and end_seconds is None:
        return video_id
    return f"{video_id}[{_bound(start_seconds)}-{_bound(end_seconds)}]"


def _bound(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if not math.isfinite(seconds):
        raise ValueError(f"a clip bound is {seconds} seconds; expected a finite number or None")
    return repr(float(seconds) + 0.0)  # + 0.0 turns -0.0 into 0.0, so that equal times have equal ids
