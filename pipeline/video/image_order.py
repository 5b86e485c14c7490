"""Checks whether the order of the numbers in images' names is doubtful: dates, counters from the right, and wrap-arounds.

A row has the numbers of one name, from left to right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import date, time
from itertools import pairwise
from statistics import median

# Day, month and year, in either order of the first two, with and without separators; or month and year.
YEAR_LAST = (
    re.compile(r"(?<!\d)(\d\d?)([-._ ])(\d\d?)\2((?:19|20)\d\d)(?!\d)"),
    re.compile(r"(?<!\d)(0[1-9]|[12]\d|3[01])(0[1-9]|[12]\d|3[01])((?:19|20)\d\d)(?!\d)"),
    re.compile(r"(?<!\d)(?<!\d[-._])(0?[1-9]|1[0-2])[-._]((?:19|20)\d\d)(?!\d)"),
)
SHORT_YEAR = re.compile(r"(?<!\d)(\d\d?)([-._ ])(\d\d?)\2(\d\d)(?!\2?\d)|(?<!\d)(\d\d)(\d\d)(\d\d)(?!\d)")
WHOLE_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)([-._]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?!\d)")
AM_OR_PM = re.compile(r"(?<!\d)(\d\d?)(?:[-._:h]?\d\d){0,2} ?[-_.]?[ap]\.?m(?![a-z])")
FIRST_OF_1900S = 70  # two-digit years from here on belong to the last century, as in Python and POSIX
MAX_YEARS = 20  # span of the dates of a folder; seconds and frames differ by more
MIN_NAMES = 4  # with fewer names, regular steps may be chance
DAY_SECONDS, YEAR_DAYS, LEAP_YEAR = 86400, 366, 2000
FULL_COUNTERS = {255, 65535}
SMALL_COUNTERS = {(1, 12), (1, 52), (1, 53), (0, 23), (0, 59)}  # first and last month, week, hour, minute

Row = tuple[int, ...]


def are_unsure_dates(stems: Sequence[str]) -> bool:
    """Return whether the names have dates of several months or years whose order may differ from that of the numbers."""
    of_days, without_points, of_months = (_dates_in(pattern, stems) for pattern in YEAR_LAST)
    if len({row[1:] for row in of_days or without_points}) > 1:
        return True
    if of_months and all(len({*column}) > 1 for column in zip(*of_months, strict=True)):
        return True
    return _have_short_years(stems) or _have_date_last(stems)


def _have_short_years(stems: Sequence[str]) -> bool:
    """Return whether all names can be dates with two-digit years (31-12-99, 991231), after the same prefix."""
    rows = _dates_in(SHORT_YEAR, stems)
    if not rows or len({SHORT_YEAR.split(stem, 1)[0] for stem in stems}) > 1 or counts_without_gaps(rows):
        return False
    first, second, last = (len(set(column)) for column in zip(*rows, strict=True))
    if first == 1 and SHORT_YEAR.search(stems[0])[2] is None:  # type: ignore[index]
        return False  # a single year, which comes first
    orders = [(0, 1, 2)]
    orders += [(2, 1, 0)] if last <= max(2, first) else []  # otherwise there are more years than days
    orders += [(2, 0, 1)] if last <= max(2, second) else []
    return any(_is_reordered(rows, *order) for order in orders)


def _have_date_last(stems: Sequence[str]) -> bool:
    """Return whether the numbers before a date give another order than the date."""
    dates = [match for stem in stems if (match := WHOLE_DATE.search(stem))]
    if len(dates) < max(len(stems), 3):
        return False
    rows = [(tuple(map(int, re.findall(r"\d+", match.string[: match.start()]))), match[0]) for match in dates]
    return sorted(rows) != sorted(rows, key=lambda row: row[::-1])


def _dates_in(pattern: re.Pattern[str], stems: Sequence[str]) -> list[Row]:
    """Return the numbers of the date in each name; none unless all names have a date."""
    matches = [match for stem in stems if (match := pattern.search(stem))]
    rows = [tuple(int(text) for text in match.groups() if text and text.isdigit()) for match in matches]
    return rows if len(rows) == len(stems) else []


def _is_reordered(rows: list[Row], year: int, month: int, day: int) -> bool:
    """Return whether these columns can be dates, within `MAX_YEARS`, whose order differs from that of the rows."""
    try:
        dates = [date(whole_year(row[year]), row[month], row[day]) for row in sorted(rows)]
    except ValueError:
        return False
    return dates != sorted(dates) and max(dates).year - min(dates).year <= MAX_YEARS


def whole_year(year: int) -> int:
    """Return the four-digit year of a two-digit one."""
    return year + (2000 if year < FIRST_OF_1900S else 1900)


def are_unsure_pairs(columns: Sequence[Sequence[str]]) -> bool:
    """Return whether numbers, one column each, may be ordered from right to left, as month and year are."""
    texts: list[Sequence[str]] = list(zip(*columns, strict=True))
    if len(columns) == 1 and all(len(text) == 4 for (text,) in texts):
        if len({*_steps([int(text) for (text,) in texts])}) == 1:
            return False
        texts = [(text[:2], text[2:]) for (text,) in texts]
    if len(texts) < MIN_NAMES or len(texts[0]) != 2:
        return False
    rows = sorted((int(first), int(second)) for first, second in texts)
    if all(len(text) == 2 for row in texts for text in row) and _are_consecutive_days(rows):
        return True
    if counts_without_gaps(rows):
        return False
    are_short = all(len(second) == 2 for _, second in texts)
    return _count_from_the_right(rows) or (are_short and _are_months(rows))


def _are_consecutive_days(rows: list[tuple[int, int]]) -> bool:
    """Return whether the rows are consecutive days as DD-MM, across the end of a month."""
    for year in (LEAP_YEAR, LEAP_YEAR + 1):
        with suppress(ValueError):
            days = [date(year, month, day).toordinal() for day, month in rows]
            if days != sorted(days) and {*_steps(days)} == {1}:
                return True
    return False


def _are_months(rows: list[tuple[int, int]]) -> bool:
    """Return whether the rows can be MM-YY, or YY-MM of two centuries, in equal steps, with another order than the numbers."""
    for reading in (rows, [row[::-1] for row in rows]):
        months = [12 * whole_year(year) + month for month, year in reading]
        is_valid = all(1 <= month <= 12 for month, _ in reading)
        if is_valid and months != sorted(months) and len(set(_steps(months))) == 1:
            return True
    return False


def _count_from_the_right(rows: list[tuple[int, int]]) -> bool:
    """Return whether the first number counts up to its maximum repeatedly, and the second one counts the repetitions.

    If every first number has the same second ones, as cameras and frames do, this cannot be decided.
    """
    firsts, seconds = ({*column} for column in zip(*rows, strict=True))
    mirrored = sorted(row[::-1] for row in rows)
    ends = {before[1] for before, after in pairwise(mirrored) if before[0] != after[0]}
    return len(rows) < len(firsts) * len(seconds) and ends == {max(firsts)} and counts_without_gaps(mirrored)


def counts_without_gaps(rows: Sequence[Row]) -> bool:
    """Return whether rows count as shots and frames do: without gaps, and restarting after each step of an earlier number."""
    for before, after in pairwise(sorted(rows)):
        place = next((n for n, (a, b) in enumerate(zip(before, after, strict=True)) if a != b), 0)
        if after[place] != before[place] + 1 or max(after[place + 1 :], default=0) > 1:
            return False
    return True


def have_half_days(stems: Sequence[str]) -> bool:
    """Return whether the names have 12-hour times, in which 12 comes before 1."""
    hours = {int(match[1]) for stem in stems if (match := AM_OR_PM.search(stem))}
    return 12 in hours and len(hours) > 1


def have_wrapped_around(columns: Sequence[Sequence[str]]) -> bool:
    """Return whether numbers, one column each, may contain the wrap-around of a clock or counter."""
    if not columns or len(columns[0]) < MIN_NAMES:
        return False
    if len(columns) == 1 and _counter_wraps_around(columns[0]):
        return True
    return any(_clock_wraps_around(values, period) for values, period in _clocks(list(zip(*columns, strict=True))))


def _counter_wraps_around(texts: Sequence[str]) -> bool:
    """Return whether a full counter restarts: 9998, 9999, 0001; or 11, 12, 01."""
    numbers = sorted(map(int, texts))
    is_padded = len(set(map(len, texts))) == 1 and len(texts[0]) > 1
    full = FULL_COUNTERS | ({10 ** len(texts[0]) - 1} if is_padded else set())
    gaps = [step for step in _steps(numbers) if step != 1]
    is_half_missing = 2 * len(numbers) <= numbers[-1] - numbers[0]  # other counters miss less
    is_small = is_padded and (numbers[0], numbers[-1]) in SMALL_COUNTERS
    return len(gaps) == 1 and is_half_missing and (is_small or (numbers[0] <= 1 and numbers[-1] in full))


def _clocks(rows: Sequence[Sequence[str]]) -> Iterator[tuple[list[int], int]]:
    """Yield each possible reading as days of a year, seconds of a day or of half a day, with its period."""
    joined = ["".join(row) for row in rows]
    if {*map(len, joined)} == {4}:
        with suppress(ValueError):
            days = [date(LEAP_YEAR, int(text[:2]), int(text[2:])) for text in joined]
            yield [day.timetuple().tm_yday for day in days], YEAR_DAYS
    if len(rows[0]) == 1 and {*map(len, joined)} in ({4}, {6}):
        rows = [re.findall("..", text) for text in joined]
    if len(rows[0]) in (2, 3) and all(len(text) == 2 for row in rows for text in row[1:]):
        with suppress(ValueError):
            times = [time.fromisoformat(":".join(text.zfill(2) for text in row)) for row in rows]
            seconds = [3600 * moment.hour + 60 * moment.minute + moment.second for moment in times]
            yield seconds, DAY_SECONDS
            if all(1 <= moment.hour <= 12 for moment in times):
                yield seconds, DAY_SECONDS // 2


def _clock_wraps_around(values: list[int], period: int) -> bool:
    """Return whether values in even steps continue across the end of the period, with a longer gap elsewhere."""
    steps = _steps(values)
    usual, wrap_step = median(steps), period - max(values) + min(values)
    n_usual = sum(abs(step - usual) <= usual / 10 for step in steps)
    return 2 * n_usual > len(steps) and wrap_step <= 2 * usual and max(steps) > 2 * wrap_step


def _steps(values: Sequence[int]) -> list[int]:
    return [after - before for before, after in pairwise(sorted(values))]
