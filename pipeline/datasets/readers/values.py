"""Parsing of single values of annotation rows; BadRow states why a row cannot be used."""

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

# Models predict windows within the benchmark's 150 s, also for shorter videos: the published baseline exceeds a video by 6 s.
NOMINAL_SECONDS = 150.0
CLIP_SECONDS = 2.0  # of the benchmark's highlight annotations
ROUNDING_SECONDS = 0.01


class BadRow(Exception):
    """This row cannot become a question; the message is the reason in its `Rejected`."""


def json_text(value: Any) -> str:
    """Format a JSON value for an error message, shortened if it is long."""
    return shortened(json.dumps(value, ensure_ascii=False), 60)


def exact_text(key: str, value: Any) -> str:
    """Return the unchanged text, including blanks at its ends, as models were trained on these bytes; accepts a JSON integer."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise BadRow(f"{key} is a JSON {type(value).__name__}, text was wanted")
    if value is None or not value.strip():
        raise BadRow(f"{key} is missing or empty")
    if "\0" in value:
        raise BadRow(f"{key} holds a NUL character, text was wanted")
    if HALF_PAIR.search(value):
        raise BadRow(f"{key} has half of a surrogate pair, which no UTF-8 file can hold")  # possible by JSON escapes
    return value


def text(key: str, value: Any, default: str | None = None) -> str:
    """Return the text without blanks at its ends; `default`, if given, for a missing or empty value."""
    if default is not None and (value is None or (isinstance(value, str) and not value.strip())):
        return default
    return exact_text(key, value).strip()


def video_name(key: str, value: Any) -> str:
    """Return the name of a video, which may contain slashes and colons but must stay inside the videos folder."""
    name = text(key, value)
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise BadRow(f"{key} is {name!r}, a path below the videos folder was wanted")
    return name


def optional_seconds(key: str, value: Any) -> float | None:
    """Return a number of seconds from 0; None for no value."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise BadRow(f"{key} is {value!r}, a number of seconds from 0 was wanted")
    return seconds


def option_index(key: str, value: Any, n_options: int) -> int | None:
    """Return the 0-based position of an option, given as a number or its digits; None for no value."""
    if isinstance(value, str):
        value = value.strip()
    if value is None or value == "":
        return None
    for index in range(n_options):
        if value == str(index) or (type(value) is int and value == index):
            return index
    raise BadRow(f"{key} is {value!r}, an index from 0 to {n_options - 1} was wanted")


def split_clip(value: Any) -> tuple[str, str]:
    """Return the two bounds of "a-b" or "[a:b]", as text; either may be nan."""
    bounds = re.fullmatch(rf"\[?\s*({SECONDS})\s*[-:]\s*({SECONDS})\s*\]?", text("ts", value), re.IGNORECASE | re.ASCII)
    if bounds is None:
        raise BadRow(f"ts is {value!r}, two numbers of seconds as in 12.5-20 were wanted")
    return bounds[1], bounds[2]


def clip(start: Any, end: Any) -> tuple[float | None, float | None, str]:
    """Return clip bounds in seconds, and a note: a nan bound is open, reversed bounds are swapped.

    Times outside the video are clamped when its frames are sampled, when its duration is known.
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
    """Return whether a moment lies too far outside its video to be valid."""
    # Cut videos often decode to a fraction of a clip more than the annotations' whole seconds; moments there are only noted.
    last_second = max(duration_seconds, NOMINAL_SECONDS) + CLIP_SECONDS
    return start_seconds < -ROUNDING_SECONDS or start_seconds >= duration_seconds or end_seconds > last_second


def moments(key: str, value: Any, duration: Any = None) -> tuple[tuple[Moment, ...], str]:
    """Return the moments of a JSON list of [start, end] in seconds, and a note; none for no value. Reversed ones are swapped.

    Raises BadRow for a nan, as a moment without a bound would be a wrong label, and, if `duration` is given, for a moment
    outside the video by the evaluator's rule; one that reaches slightly past its end is noted.
    """
    if value is None:
        return (), ""
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise BadRow(f"{key} is {value!r}, a list of [start, end] in seconds was wanted")
    spans, notes = [], []
    for pair in value:
        start, end, note = clip(*pair)
        if start is None or end is None:
            raise BadRow(f"{key} holds {pair}, finite numbers of seconds were wanted")
        spans.append(Moment(start, end))
        notes += [note, _beyond(key, spans[-1], duration)]
    return tuple(spans), "; ".join(filter(None, notes))


def _beyond(key: str, moment: Moment, duration: Any) -> str:
    """Return a note if the moment reaches past the end of a video of this duration; raise BadRow if it lies outside."""
    if duration is None:
        return ""
    last = seconds("duration", duration)
    start, end = moment.start_seconds, moment.end_seconds
    if not last > 0:
        raise BadRow(f"duration is {duration!r}, a number of seconds above 0 was wanted")
    if outside_video(start, end, last):
        raise BadRow(f"{key} holds {start:g} to {end:g} s, which lies outside the video (0 to {last:g} s)")
    return f"moment {start:g} to {end:g} s reaches past the video's {last:g} s" if end > last + ROUNDING_SECONDS else ""


def seconds(key: str, value: Any) -> float:
    """Return a number of seconds, given as a number or text; it may be nan or infinite."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadRow(f"{key} is missing")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_digits = isinstance(value, str) and re.fullmatch(rf"\s*(?:{SECONDS})\s*", value, re.IGNORECASE | re.ASCII)
    if not is_number and not is_digits:
        raise BadRow(f"{key} is {value!r}, a number of seconds was wanted")
    try:
        return float(value)
    except OverflowError as error:
        raise BadRow(f"{key} is too large a number; seconds were wanted") from error
