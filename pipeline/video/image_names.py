"""In which order a folder's images come by their names, where these leave no doubt about it."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from string import ascii_lowercase

from cache.errors import DecodeError, MissingSourceError
from pipeline.video.frames import IMAGE_SUFFIXES
from pipeline.video.image_doubts import (
    FULL_COUNTERS,
    WHOLE_DATE,
    are_unsure_dates,
    are_unsure_pairs,
    have_begun_anew,
    have_half_days,
)

WHOLE = r"(\d+)"
# A number with a point or comma and perhaps Python's exponent, not a part of 1.2.3; whole numbers beside it.
POINT, COMMA = (
    rf"((?<!\d)(?<!\d{mark})\d+{mark}\d+(?:e[+-]\d\d\d?)?(?!{mark}?\d)|\d+e-\d\d\d?|\d+)" for mark in (r"\.", ",")
)
DATE_SEPARATOR = re.compile(r"[-_. ]?")
LETTER_POINT = re.compile(r"(?<=\d)p(?=\d)")
MINUS = re.compile(r"(?:^|[\s_=(])-\d|\u2212\d")
FULL = {*FULL_COUNTERS, 99999, 9999999}  # after which a counter may begin anew
COUNTED = 4  # a counter's numbers are at most so many times as high as their number

AS_DIGITS = str.maketrans(ascii_lowercase, ("0123456789" + ascii_lowercase)[:26])  # of base 26

Columns = list[tuple[str, ...]]  # the numbers that differ between the names, each with its text in every name


def list_images(folder: Path) -> list[Path]:
    """The folder's images in the order that their names say (2.jpg before 10.jpg). What is no regular file is left out.

    Raises DecodeError, with the names at fault, where the names can be read as several orders, or as none.
    """
    with os.scandir(folder) as entries:  # as in the folder's digest
        images = (entry for entry in entries if entry.name.lower().endswith(IMAGE_SUFFIXES))
        every = sorted(Path(entry) for entry in images if _is_file(entry))
    if either := next((file.name for file in every if re.match(r"\.\d", file.name)), ""):
        raise DecodeError(
            f"unreadable: is {either} a hidden file, or a frame? Remove it, or write a number before its point (0{either})"
        )
    shown = [file for file in every if file.name[0] != "."]
    places, at_fault = order_of_names([image.stem for image in shown])
    if at_fault:
        names = ", ".join(shown[place].name for place in at_fault[:4])
        more = f" and {len(at_fault) - 4} more" if len(at_fault) > 4 else ""
        raise DecodeError(
            f"unreadable: no clear order in the images' names, see {names}{more}; number them 1, 2, 3, ..."
        )
    return [shown[place] for place in places]


def order_problem(folder: Path) -> str:
    """Return why the order of a folder's images is open; empty where it is clear.

    Raises MissingSourceError where the folder cannot be read.
    """
    try:
        list_images(folder)
    except DecodeError as error:
        return str(error)
    except OSError as error:
        raise MissingSourceError(f"{folder} cannot be read: {error.strerror or error}") from error
    return ""


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # of links that lead nowhere `Path` makes no error
        return Path(entry).is_file()


def order_of_names(names: Sequence[str]) -> tuple[list[int], list[int]]:
    """Returns the places of the names in their order, and the places of those that leave the order open: one of both is empty.

    Numbers count from left to right, or letters that go on as in a, b, c or ay, az, ba. Only what differs between the names
    counts. Whether 1.9 and 1.10 are decimals or counters is clear where only one of both can be, or both give the same order.
    """
    stems = [name.casefold() for name in names]
    every = list(range(len(stems)))
    if len(stems) < 2:
        return every, []
    if numbers := _counters(stems):
        return sorted(every, key=numbers.__getitem__), []
    if doubted := [place for place, stem in enumerate(stems) if MINUS.search(stem)]:
        return [], doubted
    if _are_lettered(stems):
        return sorted(every, key=stems.__getitem__), []
    counted, decimals = _columns(stems, WHOLE), _decimals(stems)
    if _is_doubtful(stems, counted, decimals):
        return [], every
    by_count, by_value = _order(counted), _order(decimals)
    is_dated = all(map(WHOLE_DATE.search, stems))  # the year comes first, and a time after its day
    if by_count and (is_dated or by_value in ([], by_count) or _gap(counted) == 0):
        return by_count, []
    if by_value and not _has_trailing_zeros(decimals) and (not by_count or _is_no_counter(decimals)):
        return by_value, []
    disputed = {place for places in zip(by_count, by_value, strict=False) if len({*places}) > 1 for place in places}
    return [], sorted(disputed) or _strangers(stems)


def _is_doubtful(stems: list[str], counted: Columns, decimals: Columns) -> bool:
    """Whether the numbers may stand for something that counts in another order than they do."""
    if are_unsure_dates(stems) or have_half_days(stems):
        return True
    with_points = [LETTER_POINT.sub(".", stem) for stem in stems]  # 1.5 as programs write it that shun points in names
    if with_points != stems and order_of_names(with_points)[0] != _order(counted):
        return True
    if all(map(WHOLE_DATE.search, stems)) and _order(counted):
        return False
    if have_begun_anew(counted) or _have_later_counter(decimals):
        return True
    are_times = bool(_fractions(decimals)) and _is_even(decimals)
    return DATE_SEPARATOR.fullmatch(_between_columns(stems)) is not None and are_unsure_pairs(counted) and not are_times


def missing_numbers(names: Sequence[str]) -> int:
    """Returns how many whole numbers are missing between names that differ in one whole number only; else 0."""
    columns = _decimals([name.casefold() for name in names])
    return 0 if any(_value(text).denominator > 1 for column in columns for text in column) else max(0, _gap(columns))


def _counters(stems: list[str]) -> list[int]:
    """The whole number at each name's end, if the names differ in it alone and it can be nothing but a counter; else none.

    So it is where none is left out, or where it has five or seven digits, as no date or time has. Millions of such names are
    through in seconds.
    """
    prefixes = {stem.rstrip("0123456789") for stem in stems}
    prefix = prefixes.pop()
    widths = {len(stem) - len(prefix) for stem in stems}
    if prefixes or 0 in widths or re.search(r"\de-$", prefix) or MINUS.search(stems[0]):
        return []
    numbers = [int(stem[len(prefix) :]) for stem in stems]
    last = max(numbers)
    are_all = len(numbers) == last - min(numbers) + 1
    are_clear = are_all or (widths in ({5}, {7}) and last not in FULL)
    return numbers if are_clear and len(set(numbers)) == len(numbers) else []


def _are_lettered(stems: list[str]) -> bool:
    """Whether the names count by letters, none left out: words (one, two; jan, feb; VI, VII) are in no order that is sure."""
    varying = [place for place, letters in enumerate(zip(*stems, strict=False)) if len(set(letters)) > 1]
    if len(set(map(len, stems))) > 1 or not varying:
        return False
    counters = [stem[varying[0] : varying[-1] + 1] for stem in stems]
    if not all(re.fullmatch("[a-z]+", counter) for counter in counters):
        return False
    values = [int(counter.translate(AS_DIGITS), 26) for counter in counters]
    return sorted(values) == list(range(min(values), max(values) + 1))


def _have_later_counter(columns: Columns) -> bool:
    """Whether a number counts all the images, none left out, in another order than the numbers before it."""
    order = _order(columns)
    for column in columns[1:]:
        if not all(_value(text).denominator == 1 for text in column) or len(set(column)) < len(column):
            continue
        # Of three seconds, say, it may be chance.
        begins = column is columns[-1] and min(map(_value, column)) <= 1
        if len(column) > (2 if begins else 3) and _gap([column]) == 0 and _order([column]) != order:
            return True
    return False


def _columns(stems: list[str], pattern: str) -> Columns:
    """Empty if the names differ in more than numbers."""
    parts = [re.split(pattern, stem) for stem in stems]
    if len({tuple(part[::2]) for part in parts}) > 1:
        return []
    columns = zip(*(part[1::2] for part in parts), strict=True)
    return [column for column in columns if len(set(map(_value, column))) > 1]


def _between_columns(stems: list[str]) -> str:
    """What stands between the numbers in which the names differ, as in the first name: words there say what the numbers are."""
    parts = [re.split(WHOLE, stem) for stem in stems]
    varying = [place for place, texts in enumerate(zip(*parts, strict=False)) if place % 2 and len(set(texts)) > 1]
    return "".join(parts[0][varying[0] + 1 : varying[-1]]) if varying else ""


def _decimals(stems: list[str]) -> Columns:
    return _columns(stems, COMMA if all(re.search(r"\d,\d", stem) for stem in stems) else POINT)


def _value(text: str) -> Fraction | int:
    return int(text) if text.isdigit() else Fraction(text.replace(",", "."))


def _order(columns: Columns) -> list[int]:
    """The places of the names in order of their numbers; empty if two of them have the same."""
    numbers = list(zip(*(map(_value, column) for column in columns), strict=True))
    return sorted(range(len(numbers)), key=numbers.__getitem__) if len(set(numbers)) == len(numbers) else []


def _gap(columns: Columns) -> int:
    """How many numbers are missing in the only column; -1 if there is another one."""
    if len(columns) != 1:
        return -1
    numbers = {int(_value(text)) for text in columns[0]}
    return max(numbers) - min(numbers) + 1 - len(numbers)


def _fractions(decimals: Columns) -> list[tuple[str, str]]:
    """Whole part and digits behind the point of every number that has a point, as written."""
    matches = (re.match(r"(\d+)[.,](\d+)", text) for column in decimals for text in column)
    return [(match[1], match[2]) for match in matches if match]


def _has_trailing_zeros(decimals: Columns) -> bool:
    """Whether decimals of unequal length end in zeros, as no program writes them: then they are rather counters."""
    for column in decimals:
        digits = [
            behind[1] if (behind := re.search(r"[.,](\d+)", text)) else "" for text in column
        ]  # 999 beside 1.000 too
        if len(set(map(len, digits))) > 1 and any(len(each) > 1 and each[-1] == "0" for each in digits):
            return True
    return False


def _is_no_counter(decimals: Columns) -> bool:
    """Whether they are in even steps as times are, or what stands behind the points looks like nothing that was counted."""
    fractions = _fractions(decimals)
    if any(len(digits) > 1 and digits[0] == "0" for _, digits in fractions) or _is_even(decimals):
        return True
    counts: dict[str, list[int]] = defaultdict(list)
    for whole, digits in fractions:
        counts[whole].append(int(digits))
    steps = [after - before for group in counts.values() for before, after in pairwise(sorted(group))]
    has_stride = len(steps) > 1 and len(set(steps)) == 1
    return not has_stride and max(map(max, counts.values())) > COUNTED * max(map(len, counts.values()))


def _is_even(columns: Columns) -> bool:
    """Whether the names differ in one number, in equal steps."""
    steps = [after - before for before, after in pairwise(sorted(map(_value, columns[0])))]
    return len(columns) == 1 and len(steps) > 1 and max(steps) - min(steps) < min(steps) / 100


def _strangers(stems: list[str]) -> list[int]:
    """The places of names of another form than most have, or with the same number as another one, or of all."""
    forms = [tuple(re.split(POINT, stem)[::2]) for stem in stems]
    ((common, n_common),) = Counter(forms).most_common(1)
    if n_common == 1:
        return list(range(len(stems)))
    if strangers := [place for place, form in enumerate(forms) if form != common]:
        return strangers
    keys = list(zip(*(map(_value, column) for column in _columns(stems, POINT)), strict=True)) or stems
    counts = Counter(keys)
    return [place for place, key in enumerate(keys) if counts[key] > 1] or list(range(len(stems)))
