"""Whether numbers in names of images may count in another order than as written: as dates, from the right, or over a turn.

No order is sure then. A row holds the numbers of one name, from left to right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import date, time
from itertools import pairwise
from statistics import median

# Day, month and year, in either order of the first two, with points and without; or month and year.
YEAR_LAST = (
    re.compile(r"(?<!\d)(\d\d?)([-._ ])(\d\d?)\2((?:19|20)\d\d)(?!\d)"),
    re.compile(r"(?<!\d)(0[1-9]|[12]\d|3[01])(0[1-9]|[12]\d|3[01])((?:19|20)\d\d)(?!\d)"),
    re.compile(r"(?<!\d)(?<!\d[-._])(0?[1-9]|1[0-2])[-._]((?:19|20)\d\d)(?!\d)"),
)
SHORT_YEAR = re.compile(r"(?<!\d)(\d\d?)([-._ ])(\d\d?)\2(\d\d)(?!\2?\d)|(?<!\d)(\d\d)(\d\d)(\d\d)(?!\d)")
WHOLE_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)([-._]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?!\d)")
AM_OR_PM = re.compile(r"(?<!\d)(\d\d?)(?:[-._:h]?\d\d){0,2} ?[-_.]?[ap]\.?m(?![a-z])")
FIRST_OF_1900S = 70  # two digits from here on are of the last century, as in Python and POSIX
MOST_YEARS = 20  # of one folder; seconds and frames differ by more
FEWEST = 4  # names, to believe that regular steps are no chance
DAY_SECONDS, YEAR_DAYS, LEAP_YEAR = 86400, 366, 2000
FULL_COUNTERS = {255, 65535}
SMALL_TURNS = {
    (1, 12),
    (1, 52),
    (1, 53),
    (0, 23),
    (0, 59),
}  # begins and ends of counters: months, weeks, hours, minutes

Row = tuple[int, ...]


def are_unsure_dates(stems: Sequence[str]) -> bool:
    """Whether the names hold dates of several months or years that may count in another order than as written."""
    of_days, without_points, of_months = (_dates_in(pattern, stems) for pattern in YEAR_LAST)
    if len({row[1:] for row in of_days or without_points}) > 1:
        return True
    if of_months and all(len({*column}) > 1 for column in zip(*of_months, strict=True)):
        return True
    return _have_short_years(stems) or _have_date_last(stems)


def _have_short_years(stems: Sequence[str]) -> bool:
    """Whether all can be dates whose year has two digits (31-12-99, 991231), of one collection."""
    rows = _dates_in(SHORT_YEAR, stems)
    if not rows or len({SHORT_YEAR.split(stem, 1)[0] for stem in stems}) > 1 or counts_on(rows):
        return False
    first, second, last = (len(set(column)) for column in zip(*rows, strict=True))
    if first == 1 and SHORT_YEAR.search(stems[0])[2] is None:  # type: ignore[index]
        return False  # of one year, which comes first
    orders = [(0, 1, 2)]
    orders += [(2, 1, 0)] if last <= max(2, first) else []  # else the years would differ more than the days
    orders += [(2, 0, 1)] if last <= max(2, second) else []
    return any(_is_reordered(rows, *order) for order in orders)


def _have_date_last(stems: Sequence[str]) -> bool:
    """Whether other numbers that differ stand before a date, which then would count for less than they."""
    dates = [match for stem in stems if (match := WHOLE_DATE.search(stem))]
    if len(dates) < max(len(stems), 3):
        return False
    rows = [(tuple(map(int, re.findall(r"\d+", each.string[: each.start()]))), each[0]) for each in dates]
    return sorted(rows) != sorted(rows, key=lambda row: row[::-1])


def _dates_in(pattern: re.Pattern[str], stems: Sequence[str]) -> list[Row]:
    """Return the numbers of the date in each name; none unless all have one."""
    matches = [match for stem in stems if (match := pattern.search(stem))]
    rows = [tuple(int(text) for text in match.groups() if text and text.isdigit()) for match in matches]
    return rows if len(rows) == len(stems) else []


def _is_reordered(rows: list[Row], year: int, month: int, day: int) -> bool:
    """Whether numbers in these places can be dates, of `MOST_YEARS` at most, that follow in another order than the rows."""
    try:
        dates = [date(whole_year(row[year]), row[month], row[day]) for row in sorted(rows)]
    except ValueError:
        return False
    return dates != sorted(dates) and max(dates).year - min(dates).year <= MOST_YEARS


def whole_year(year: int) -> int:
    """A year of two digits with all four."""
    return year + (2000 if year < FIRST_OF_1900S else 1900)


def are_unsure_pairs(columns: Sequence[Sequence[str]]) -> bool:
    """Whether names that differ in these numbers, one column each, may count from right to left, as month and year do."""
    texts: list[Sequence[str]] = list(zip(*columns, strict=True))
    if len(columns) == 1 and all(len(text) == 4 for (text,) in texts):
        if len({*_steps([int(text) for (text,) in texts])}) == 1:
            return False
        texts = [(text[:2], text[2:]) for (text,) in texts]
    if len(texts) < FEWEST or len(texts[0]) != 2:
        return False
    rows = sorted((int(first), int(second)) for first, second in texts)
    if all(len(text) == 2 for row in texts for text in row) and _are_days_in_a_row(rows):
        return True
    if counts_on(rows):
        return False
    are_short = all(len(second) == 2 for _, second in texts)
    return _count_from_the_right(rows) or (are_short and _are_months(rows))


def _are_days_in_a_row(rows: list[tuple[int, int]]) -> bool:
    """Whether they are DD-MM, every day of some time that a month ends in."""
    for year in (LEAP_YEAR, LEAP_YEAR + 1):
        with suppress(ValueError):
            days = [date(year, month, day).toordinal() for day, month in rows]
            if days != sorted(days) and {*_steps(days)} == {1}:
                return True
    return False


def _are_months(rows: list[tuple[int, int]]) -> bool:
    """Whether all can be MM-YY, or YY-MM of two centuries, in equal steps, and do not follow one another as written."""
    for reading in (rows, [row[::-1] for row in rows]):
        months = [12 * whole_year(year) + month for month, year in reading]
        is_valid = all(1 <= month <= 12 for month, _ in reading)
        if is_valid and months != sorted(months) and len(set(_steps(months))) == 1:
            return True
    return False


def _count_from_the_right(rows: list[tuple[int, int]]) -> bool:
    """Whether the first number counts to its end again and again, while the second one counts how often.

    Where all first numbers have the same second ones, as cameras have their frames, nothing says so.
    """
    firsts, seconds = ({*column} for column in zip(*rows, strict=True))
    mirrored = sorted(row[::-1] for row in rows)
    ends = {before[1] for before, after in pairwise(mirrored) if before[0] != after[0]}
    return len(rows) < len(firsts) * len(seconds) and ends == {max(firsts)} and counts_on(mirrored)


def counts_on(rows: Sequence[Row]) -> bool:
    """Whether rows count as shots and frames do: none is left out, and what comes after a number that goes on begins anew."""
    for before, after in pairwise(sorted(rows)):
        place = next((n for n, (a, b) in enumerate(zip(before, after, strict=True)) if a != b), 0)
        if after[place] != before[place] + 1 or max(after[place + 1 :], default=0) > 1:
            return False
    return True


def have_half_days(stems: Sequence[str]) -> bool:
    """Whether the names count hours from 1 to 12, in which noon and midnight come before 1."""
    hours = {int(match[1]) for stem in stems if (match := AM_OR_PM.search(stem))}
    return 12 in hours and len(hours) > 1


def have_begun_anew(columns: Sequence[Sequence[str]]) -> bool:
    """Whether the first of some names may stand in the middle of their numbers, one column each, as a clock or counter turned."""
    if not columns or len(columns[0]) < FEWEST:
        return False
    if len(columns) == 1 and _counter_begins_anew(columns[0]):
        return True
    return any(_is_cut(values, turn) for values, turn in _clocks(list(zip(*columns, strict=True))))


def _counter_begins_anew(texts: Sequence[str]) -> bool:
    """Whether a counter that is full goes on at its begin: 9998, 9999, 0001; or 11, 12, 01."""
    numbers = sorted(map(int, texts))
    is_padded = len(set(map(len, texts))) == 1 and len(texts[0]) > 1
    full = FULL_COUNTERS | ({10 ** len(texts[0]) - 1} if is_padded else set())
    gaps = [step for step in _steps(numbers) if step != 1]
    is_half_lost = 2 * len(numbers) <= numbers[-1] - numbers[0]  # of others, less
    is_small = is_padded and (numbers[0], numbers[-1]) in SMALL_TURNS
    return len(gaps) == 1 and is_half_lost and (is_small or (numbers[0] <= 1 and numbers[-1] in full))


def _clocks(rows: Sequence[Sequence[str]]) -> Iterator[tuple[list[int], int]]:
    """Yield the names as days of a year, as seconds of a day and of half of it, where they can be such, and where these turn."""
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
            seconds = [3600 * each.hour + 60 * each.minute + each.second for each in times]
            yield seconds, DAY_SECONDS
            if all(1 <= each.hour <= 12 for each in times):
                yield seconds, DAY_SECONDS // 2


def _is_cut(values: list[int], turn: int) -> bool:
    """Whether values in even steps go on over the turn of their clock, and pause for longer elsewhere."""
    steps = _steps(values)
    usual, at_turn = median(steps), turn - max(values) + min(values)
    n_usual = sum(abs(step - usual) <= usual / 10 for step in steps)
    return 2 * n_usual > len(steps) and at_turn <= 2 * usual and max(steps) > 2 * at_turn


def _steps(values: Sequence[int]) -> list[int]:
    return [after - before for before, after in pairwise(sorted(values))]
