"""Whether numbers in names of images may have begun anew on the way, as clocks and cameras' counters do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from itertools import pairwise
from statistics import median

AM_OR_PM = re.compile(r"(?<!\d)(\d\d?)(?:[-._:h]?\d\d){0,2} ?[-_.]?[ap]\.?m(?![a-z])")
FEWEST = 4  # names, to believe that it is no chance
DAY_SECONDS = 86400
YEAR_DAYS = 366
LEAP_YEAR = 2000
FULL_COUNTERS = (255, 65535)
# Where counters of two digits begin and end: months, weeks, hours, minutes.
SMALL_TURNS = {(1, 12), (1, 52), (1, 53), (0, 23), (0, 59)}


def have_half_days(stems: Sequence[str]) -> bool:
    """Whether the names count hours from 1 to 12, in which noon and midnight come before 1."""
    hours = {int(match[1]) for stem in stems if (match := AM_OR_PM.search(stem))}
    return 12 in hours and len(hours) > 1


def have_begun_anew(columns: Sequence[Sequence[str]]) -> bool:
    """Whether the first of some names may stand in the middle of their numbers, one column each."""
    if not columns or len(columns[0]) < FEWEST:
        return False
    if len(columns) == 1 and _counter_begins_anew(columns[0]):
        return True
    if (days := _days_of_a_year(columns)) and _is_cut(days, YEAR_DAYS):
        return True
    times = _times(columns)
    if not times:
        return False
    is_of_half_day = all(1 <= hours <= 12 for hours, *_ in times)
    seconds = sorted(3600 * hours + 60 * minutes + second for hours, minutes, second in times)
    return _is_cut(seconds, DAY_SECONDS) or (is_of_half_day and _is_cut(seconds, DAY_SECONDS // 2))


def _counter_begins_anew(texts: Sequence[str]) -> bool:
    """Whether a counter that is full goes on at its begin: 9998, 9999, 0001; or 11, 12, 01."""
    numbers = sorted(map(int, texts))
    is_padded = len(set(map(len, texts))) == 1 and len(texts[0]) > 1
    full = {10 ** len(texts[0]) - 1} if is_padded else set()
    if 2 * len(numbers) > numbers[-1] - numbers[0]:  # some are lost: what turned has a pause as long as itself
        return False
    gaps = [step for before, after in pairwise(numbers) if (step := after - before) != 1]
    is_small = is_padded and (numbers[0], numbers[-1]) in SMALL_TURNS
    return len(gaps) == 1 and (is_small or (numbers[0] <= 1 and numbers[-1] in {*full, *FULL_COUNTERS}))


def _days_of_a_year(columns: Sequence[Sequence[str]]) -> list[int]:
    """The days of the year, ascending, if all can be MM-DD; else none."""
    rows = [re.findall(r"\d\d", "".join(row)) for row in zip(*columns, strict=True)]
    if any(len("".join(row)) != 4 for row in zip(*columns, strict=True)):
        return []
    try:
        return sorted(date(LEAP_YEAR, int(month), int(day)).timetuple().tm_yday for month, day in rows)
    except ValueError:
        return []


def _times(columns: Sequence[Sequence[str]]) -> list[tuple[int, int, int]]:
    """Hours, minutes and seconds, if all can be times of day; else none."""
    rows: list[Sequence[str]] = list(zip(*columns, strict=True))
    if len(columns) == 1 and {len(row[0]) for row in rows} in ({4}, {6}):
        rows = [re.findall("..", row[0]) for row in rows]
    if len(rows[0]) not in (2, 3) or any(len(text) != 2 for row in rows for text in row[1:]):
        return []
    times = [(int(row[0]), int(row[1]), int(row[2]) if len(row) == 3 else 0) for row in rows]
    return times if all(hours < 24 and minutes < 60 and second < 60 for hours, minutes, second in times) else []


def _is_cut(seconds: list[int], turn: int) -> bool:
    """Whether times in even steps go on over the turn of their clock, and pause for longer elsewhere."""
    steps = [after - before for before, after in pairwise(seconds)]
    usual = median(steps)
    n_usual = sum(abs(step - usual) <= usual / 10 for step in steps)
    at_turn = turn - seconds[-1] + seconds[0]
    return 2 * n_usual > len(steps) and at_turn <= 2 * usual and max(steps) > 2 * at_turn
