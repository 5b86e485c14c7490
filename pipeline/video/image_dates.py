"""Whether names of images are dates of which no order is sure: the day or month comes first, or the year has two digits."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

DAY_FIRST = re.compile(r"(?<!\d)\d\d?([-._])(\d\d?\1(?:19|20)\d\d)(?!\d)")
MONTH_AND_YEAR = re.compile(r"(?<!\d)(?<!\d[-._])(0?[1-9]|1[0-2])[-._]((?:19|20)\d\d)(?!\d)")
WITHOUT_POINTS = re.compile(r"(?<!\d)(?:0[1-9]|[12]\d|3[01])((?:0[1-9]|[12]\d|3[01])(?:19|20)\d\d)(?!\d)")
WHOLE_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)([-._]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?!\d)")
SHORT_YEAR = re.compile(r"(?<!\d)(\d\d?)([-._])(\d\d?)\2(\d\d)(?!\2?\d)|(?<!\d)(\d\d)(\d\d)(\d\d)(?!\d)")
FIRST_OF_1900S = 70  # two digits from here on are of the last century, as in Python and POSIX
MOST_YEARS = 20  # of one folder; seconds and frames differ by more

Triple = tuple[int, int, int]


def unsure_dates(stems: Sequence[str]) -> list[int]:
    """Returns the places of the names that are such dates of several months or years; none where the names leave no doubt."""
    days = [DAY_FIRST.search(stem) for stem in stems]
    if len({day[2] for day in days if day}) > 1:
        return [place for place, day in enumerate(days) if day]
    are_unsure = _have_year_last(stems) or _have_short_years(stems) or _have_date_last(stems)
    return list(range(len(stems))) if are_unsure else []


def _have_year_last(stems: Sequence[str]) -> bool:
    """Whether all are months with their year last (12_2019), or days (31122019), of several years or months."""
    months = [date.groups() for stem in stems if (date := MONTH_AND_YEAR.search(stem))]
    days = [date[1] for stem in stems if (date := WITHOUT_POINTS.search(stem))]
    are_of_several = len(months) == len(stems) and all(len(set(column)) > 1 for column in zip(*months, strict=True))
    return are_of_several or (len(days) == len(stems) and len(set(days)) > 1)


def _have_date_last(stems: Sequence[str]) -> bool:
    """Whether other numbers that differ stand before a date, which then would count for less than they."""
    dates = [date for stem in stems if (date := WHOLE_DATE.search(stem))]
    if len(dates) < max(len(stems), 3):
        return False
    before = [tuple(map(int, re.findall(r"\d+", date.string[: date.start()]))) for date in dates]
    pairs = sorted(zip(before, (date[0] for date in dates), strict=True))
    return pairs != sorted(pairs, key=lambda pair: pair[::-1])


def _have_short_years(stems: Sequence[str]) -> bool:
    """Whether all can be dates whose year has two digits (31-12-99, 991231), in another order than that of their numbers."""
    dates = [date for stem in stems if (date := SHORT_YEAR.search(stem))]
    if len(dates) < len(stems) or len({date.string[: date.start()] for date in dates}) > 1:
        return False
    numbers = sorted({_triple(date) for date in dates})
    first, second, last = (set(column) for column in zip(*numbers, strict=True))
    if _are_counters(numbers) or _are_times(numbers) or (dates[0][5] and len(first) == 1):
        return False
    readings = [numbers]
    if len(last) <= max(2, len(first)):  # else the years would differ more than the days
        readings.append([(year, month, day) for day, month, year in numbers])
    if len(last) <= max(2, len(second)):
        readings.append([(year, month, day) for month, day, year in numbers])
    return any(_are_disordered(reading) for reading in readings)


def _triple(date: re.Match[str]) -> Triple:
    one, two, three = date.group(1, 3, 4) if date[1] else date.group(5, 6, 7)
    return int(one), int(two), int(three)


def _are_disordered(dates: list[Triple]) -> bool:
    """Whether all can be (year, month, day) of one collection, and do not follow one another."""
    if not all(1 <= month <= 12 and 1 <= day <= 31 for _, month, day in dates):
        return False
    whole = [(whole_year(year), month, day) for year, month, day in dates]
    return whole != sorted(whole) and max(whole)[0] - min(whole)[0] <= MOST_YEARS


def whole_year(year: int) -> int:
    """A year of two digits as a number that goes on from 99 to 100."""
    return year + 100 * (year < FIRST_OF_1900S)


def _are_counters(numbers: list[Triple]) -> bool:
    """Whether they count as scenes, shots and frames do: none is left out, and each begins anew at 0 or 1."""
    for place in range(3):
        groups: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for triple in numbers:
            groups[triple[:place]].add(triple[place])
        for group in groups.values():
            if max(group) - min(group) >= len(group) or (len(groups) > 1 and min(group) > 1):
                return False
    return True


def _are_times(numbers: list[Triple]) -> bool:
    """Whether they are hours, minutes and seconds in equal steps."""
    seconds = [3600 * hours + 60 * minutes + second for hours, minutes, second in numbers]
    steps = {after - before for before, after in pairwise(seconds)}
    return len(seconds) > 2 and len(steps) == 1 and all(minutes < 60 and second < 60 for _, minutes, second in numbers)
