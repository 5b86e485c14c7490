"""Whether two numbers in names of images may count from right to left, as month and year do: no order is sure then."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from pipeline.video.image_dates import whole_year

Pair = tuple[int, int]

FOUR_DIGITS = re.compile(r"(\d\d)(\d\d)")
FEWEST = 4  # names, to believe that regular steps are no chance
# The last day of a month, of a week-numbered and of a whole year: units differ a little in how far they count.
ENDS = {28: 31, 29: 31, 30: 31, 31: 31, 52: 53, 53: 53, 365: 366, 366: 366}


def are_unsure_pairs(columns: Sequence[Sequence[str]]) -> bool:
    """Whether names that differ in these numbers, one column each, may be such pairs, in another order than as written."""
    if len(columns) == 2:
        texts = list(zip(*columns, strict=True))
    elif len(columns) == 1 and all(FOUR_DIGITS.fullmatch(text) for text in columns[0]):
        texts = [(text[:2], text[2:]) for text in columns[0]]
        if _have_equal_steps([int(text) for text in columns[0]]):
            return False
    else:
        return False
    pairs = sorted((int(first), int(second)) for first, second in texts)
    if len(set(pairs)) < len(pairs) or len({second for _, second in pairs}) < 2:
        return False
    if all(len(text) == 2 for pair in texts for text in pair) and _are_days_in_a_row(pairs):
        return True
    mirrored = [pair[::-1] for pair in pairs]
    if _count_from_the_left(pairs) or _count_from_the_right(mirrored) or (_are_even_times(pairs) and len(columns) == 2):
        return False
    return _count_from_the_right(pairs) or _are_months_and_years(pairs, texts)


def _are_months_and_years(pairs: list[Pair], texts: Sequence[Sequence[str]]) -> bool:
    """Whether all can be MM-YY, or YY-MM of two centuries, in equal steps, and do not follow one another as written."""
    if not all(len(second) == 2 for _, second in texts):
        return False
    year_last = [(whole_year(second), first) for first, second in pairs]
    year_first = [(whole_year(first), second) for first, second in pairs]
    return any(map(_are_disordered_months, (year_last, year_first)))


def _are_disordered_months(months: list[Pair]) -> bool:
    if months == sorted(months) or not all(1 <= month <= 12 for _, month in months):
        return False
    return len(months) >= FEWEST and _have_equal_steps([12 * year + month for year, month in months])


def _are_days_in_a_row(pairs: list[Pair]) -> bool:
    """Whether they are DD-MM, every day of some time that a month ends in."""
    following = sorted((month, day) for day, month in pairs)
    is_all = all(
        (month == next_month and next_day == day + 1) or (next_month == month + 1 and next_day == 1 and day >= 28)
        for (month, day), (next_month, next_day) in pairwise(following)
    )
    return (
        is_all
        and len(pairs) >= FEWEST
        and following[-1][0] <= 12
        and pairs[-1][0] <= 31
        and following[0][0] < following[-1][0]
    )


def _groups(pairs: Sequence[Pair]) -> list[list[int]]:
    """The second numbers of each first one, all ascending."""
    groups: dict[int, list[int]] = defaultdict(list)
    for first, second in sorted(pairs):
        groups[first].append(second)
    return list(groups.values())


def _count_from_the_left(pairs: list[Pair]) -> bool:
    """Whether they count as shots and frames do: none is left out, and each group begins anew at 0 or 1."""
    groups = _groups(pairs)
    return all(_is_gapless(group) and (len(groups) == 1 or group[0] <= 1) for group in groups)


def _count_from_the_right(pairs: list[Pair]) -> bool:
    """Whether the first number counts to its end again and again, while the second one counts how often.

    Where all first numbers have the same second ones, as cameras have their frames, nothing says so.
    """
    from_the_left = _groups(pairs)
    if all(group == from_the_left[0] for group in from_the_left):
        return False
    groups = _groups([(second, first) for first, second in pairs])
    last = max(first for first, _ in pairs)
    are_whole = all(ENDS.get(group[-1], group[-1]) == ENDS.get(last, last) for group in groups[:-1])
    begin_anew = all(group[0] <= 1 for group in groups[1:])
    return (
        len(pairs) >= FEWEST
        and len(pairs) > len(groups)
        and are_whole
        and begin_anew
        and all(map(_is_gapless, [*groups, sorted({second for _, second in pairs})]))
    )


def _are_even_times(pairs: list[Pair]) -> bool:
    """Whether they are minutes and seconds, or hours and minutes, in equal steps."""
    return all(second < 60 for _, second in pairs) and _have_equal_steps(
        [60 * first + second for first, second in pairs]
    )


def _is_gapless(numbers: list[int]) -> bool:
    return numbers[-1] - numbers[0] == len(numbers) - 1


def _have_equal_steps(numbers: Sequence[int]) -> bool:
    steps = {after - before for before, after in pairwise(sorted(numbers))}
    return len(numbers) > 2 and len(steps) == 1
