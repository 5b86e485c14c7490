"""Single values of annotation rows: what a cell can mean, or the reason why its row cannot be used."""

import json
import math
import re
from pathlib import PurePosixPath
from typing import Any

from cache.printable import shortened
from pipeline.datasets.question import Moment

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
HALF_PAIR = re.compile("[\ud800-\udfff]")
SECONDS = rf"{NUMBER}|[+-]?(?:nan|inf|infinity)"

# Models place windows on the benchmark's 150 s, in shorter videos too: the published baseline reaches 6 s past a video's end.
NOMINAL_SECONDS = 150.0
CLIP_SECONDS = 2.0  # of the benchmark's highlight annotations
ROUNDING_SECONDS = 0.01


class BadRow(Exception):
    """This row cannot become a question; the message is the reason its `Rejected` carries."""


def json_text(value: Any) -> str:
    """A JSON value for an error, cut where it is long."""
    return shortened(json.dumps(value, ensure_ascii=False), 60)


def exact_text(what: str, value: Any) -> str:
    """The text as it stands, blanks at its ends too: models were trained on those bytes. A bare JSON number is a text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise BadRow(f"{what} is a JSON {type(value).__name__}, text was wanted")
    if value is None or not value.strip():
        raise BadRow(f"{what} is missing or empty")
    if "\0" in value:
        raise BadRow(f"{what} holds a NUL character, text was wanted")
    if HALF_PAIR.search(value):
        raise BadRow(f"{what} has half of a surrogate pair, which no UTF-8 file can hold")  # JSON's escapes allow it
    return value


def text(what: str, value: Any, default: str | None = None) -> str:
    """The text without blanks at its ends; `default`, if there is one, for a value that is missing or empty."""
    if default is not None and (value is None or (isinstance(value, str) and not value.strip())):
        return default
    return exact_text(what, value).strip()


def video_name(what: str, value: Any) -> str:
    """The name of a video, which may hold slashes and colons but leads nowhere outside the videos folder."""
    name = text(what, value)
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise BadRow(f"{what} is {name!r}, a path below the videos folder was wanted")
    return name


def optional_seconds(what: str, value: Any) -> float | None:
    """A number of seconds from 0; None for no value."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise BadRow(f"{what} is {value!r}, a number of seconds from 0 was wanted")
    return seconds


def option_index(what: str, value: Any, n_options: int) -> int | None:
    """The 0-based position of an option, given as a number or as its digits; None for no value, which is never 0."""
    if isinstance(value, str):
        value = value.strip()
    if value is None or value == "":
        return None
    meanings = [index for index in range(n_options) if value == str(index) or (type(value) is int and value == index)]
    if not meanings:
        raise BadRow(f"{what} is {value!r}, an index from 0 to {n_options - 1} was wanted")
    return meanings[0]


def split_clip(value: Any) -> tuple[str, str]:
    """The two ends of "a-b" or "[a:b]", as text; either may be nan."""
    bounds = re.fullmatch(rf"\[?\s*({SECONDS})\s*[-:]\s*({SECONDS})\s*\]?", text("ts", value), re.IGNORECASE | re.ASCII)
    if bounds is None:
        raise BadRow(f"ts is {value!r}, two numbers of seconds as in 12.5-20 were wanted")
    return bounds[1], bounds[2]


def clip(start: Any, end: Any) -> tuple[float | None, float | None, str]:
    """Clip bounds in seconds, and what was made of them: a nan one is left open, reversed ones are swapped.

    Times before or after the video are clamped when its frames are sampled, which alone knows how long it is.
    """
    first, last = seconds("start", start), seconds("end", end)
    notes = []
    if not math.isfinite(first):
        notes.append(f"start is {first}: taken from the beginning")
    if not math.isfinite(last):
        notes.append(f"end is {last}: taken to the end")
    if math.isfinite(first) and math.isfinite(last) and first > last:
        first, last = last, first
        notes.append(f"start {last:g} s lies after end {first:g} s: swapped")
    bounds = [value if math.isfinite(value) else None for value in (first, last)]
    return bounds[0], bounds[1], "; ".join(notes)


def outside_video(start_seconds: float, end_seconds: float, duration_seconds: float) -> bool:
    """Whether a moment lies so far outside its video that it cannot be meant; one a little past the end can."""
    # Cut videos often decode to a fraction of a clip more than the annotations' whole seconds: those are noted, not refused.
    last_second = max(duration_seconds, NOMINAL_SECONDS) + CLIP_SECONDS
    return start_seconds < -ROUNDING_SECONDS or start_seconds >= duration_seconds or end_seconds > last_second


def moments(what: str, value: Any, duration: Any = None) -> tuple[tuple[Moment, ...], str]:
    """The moments of a JSON list of [start, end] in seconds, and a note; none for no value. Reversed ones are swapped.

    A moment without one of its ends would be a wrong label, so a nan rejects the row. So does one that lies outside the video,
    by the evaluator's rule, where its `duration` is given; one that reaches a little past its end is noted.
    """
    if value is None:
        return (), ""
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise BadRow(f"{what} is {value!r}, a list of [start, end] in seconds was wanted")
    spans, notes = [], []
    for pair in value:
        start, end, note = clip(*pair)
        if start is None or end is None:
            raise BadRow(f"{what} holds {pair}, finite numbers of seconds were wanted")
        spans.append(Moment(start, end))
        notes += [note, _beyond(what, spans[-1], duration)]
    return tuple(spans), "; ".join(filter(None, notes))


def _beyond(what: str, moment: Moment, duration: Any) -> str:
    """A note where the moment reaches past the end of a video of this duration; raises BadRow where it lies outside."""
    if duration is None:
        return ""
    last = seconds("duration", duration)
    start, end = moment.start_seconds, moment.end_seconds
    if not last > 0:
        raise BadRow(f"duration is {duration!r}, a number of seconds above 0 was wanted")
    if outside_video(start, end, last):
        raise BadRow(f"{what} holds {start:g} to {end:g} s, which lies outside the video (0 to {last:g} s)")
    return f"moment {start:g} to {end:g} s reaches past the video's {last:g} s" if end > last + ROUNDING_SECONDS else ""


def seconds(what: str, value: Any) -> float:
    """A number of seconds, as a number or as text; it may be nan or infinite."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadRow(f"{what} is missing")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_digits = isinstance(value, str) and re.fullmatch(rf"\s*(?:{SECONDS})\s*", value, re.IGNORECASE | re.ASCII)
    if not is_number and not is_digits:
        raise BadRow(f"{what} is {value!r}, a number of seconds was wanted")
    try:
        return float(value)
    except OverflowError as error:
        raise BadRow(f"{what} is too large a number; seconds were wanted") from error
