"""The order of a folder's images by their names, where these are unambiguous."""

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
from pipeline.video.image_order import (
    FULL_COUNTERS,
    WHOLE_DATE,
    are_unsure_dates,
    are_unsure_pairs,
    have_half_days,
    have_wrapped_around,
)

WHOLE = r"(\d+)"
# A decimal number with a point or comma and an optional exponent, not part of 1.2.3; or a whole number.
POINT, COMMA = (
    rf"((?<!\d)(?<!\d{mark})\d+{mark}\d+(?:e[+-]\d\d\d?)?(?!{mark}?\d)|\d+e-\d\d\d?|\d+)" for mark in (r"\.", ",")
)
DATE_SEPARATOR = re.compile(r"[-_. ]?")
LETTER_POINT = re.compile(r"(?<=\d)p(?=\d)")
MINUS = re.compile(r"(?:^|[\s_=(])-\d|\u2212\d")
FULL = {*FULL_COUNTERS, 99999, 9999999}  # values after which a counter may wrap around
MAX_COUNTER_RATIO = 4  # a counter's largest value is at most this multiple of the number of its values

AS_DIGITS = str.maketrans(ascii_lowercase, ("0123456789" + ascii_lowercase)[:26])  # of base 26

Columns = list[tuple[str, ...]]  # one per number that differs between the names: its text in every name


def list_images(folder: Path) -> list[Path]:
    """Return the folder's images in the order of their names (2.jpg before 10.jpg), without irregular and hidden files.

    Raises DecodeError, with the names at fault, if the names allow several orders, or none.
    """
    with os.scandir(folder) as entries:  # as in the folder's digest
        images = (entry for entry in entries if entry.name.lower().endswith(IMAGE_SUFFIXES))
        files = sorted(Path(entry) for entry in images if _is_file(entry))
    if doubtful := next((file.name for file in files if re.match(r"\.\d", file.name)), ""):
        raise DecodeError(
            f"unreadable: is {doubtful} a hidden file, or a frame? Remove it, or write a number before its point (0{doubtful})"
        )
    visible = [file for file in files if file.name[0] != "."]
    order, at_fault = order_of_names([image.stem for image in visible])
    if at_fault:
        names = ", ".join(visible[place].name for place in at_fault[:4])
        more = f" and {len(at_fault) - 4} more" if len(at_fault) > 4 else ""
        raise DecodeError(
            f"unreadable: no clear order in the images' names, see {names}{more}; number them 1, 2, 3, ..."
        )
    return [visible[place] for place in order]


def order_problem(folder: Path) -> str:
    """Return why the order of a folder's images is ambiguous; empty if it is clear.

    Raises MissingSourceError if the folder cannot be read.
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
    except OSError:  # `Path` returns False for broken links
        return Path(entry).is_file()


def order_of_names(names: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the indices of the names in order, and the indices of ambiguous names: one of the two lists is empty.

    Numbers are compared from left to right, or letters that count as in a, b, c or ay, az, ba, where the names differ. Whether
    1.9 and 1.10 are decimals or counters is clear if only one is possible, or both give the same order.
    """
    stems = [name.casefold() for name in names]
    places = list(range(len(stems)))
    if len(stems) < 2:
        return places, []
    if numbers := _counters(stems):
        return sorted(places, key=numbers.__getitem__), []
    if negative := [place for place, stem in enumerate(stems) if MINUS.search(stem)]:
        return [], negative
    if _are_lettered(stems):
        return sorted(places, key=stems.__getitem__), []
    counted, decimals = _columns(stems, WHOLE), _decimals(stems)
    if _is_doubtful(stems, counted, decimals):
        return [], places
    by_count, by_value = _order(counted), _order(decimals)
    is_dated = all(map(WHOLE_DATE.search, stems))  # year first, and a time after its day
    if by_count and (is_dated or by_value in ([], by_count) or _gap(counted) == 0):
        return by_count, []
    if by_value and not _has_trailing_zeros(decimals) and (not by_count or _is_no_counter(decimals)):
        return by_value, []
    disputed = {place for pair in zip(by_count, by_value, strict=False) if len({*pair}) > 1 for place in pair}
    return [], sorted(disputed) or _odd_names(stems)


def _is_doubtful(stems: list[str], counted: Columns, decimals: Columns) -> bool:
    """Return whether the numbers may be dates, times or counters that run in another order than the numbers."""
    if are_unsure_dates(stems) or have_half_days(stems):
        return True
    with_points = [LETTER_POINT.sub(".", stem) for stem in stems]  # 1p5 is 1.5 of programs that avoid points in names
    if with_points != stems and order_of_names(with_points)[0] != _order(counted):
        return True
    if all(map(WHOLE_DATE.search, stems)) and _order(counted):
        return False
    if have_wrapped_around(counted) or _have_later_counter(decimals):
        return True
    are_times = bool(_fractions(decimals)) and _is_even(decimals)
    return DATE_SEPARATOR.fullmatch(_between_columns(stems)) is not None and are_unsure_pairs(counted) and not are_times


def missing_numbers(names: Sequence[str]) -> int:
    """Return how many whole numbers are missing between names that differ in a single whole number; else 0."""
    columns = _decimals([name.casefold() for name in names])
    return 0 if any(_value(text).denominator > 1 for column in columns for text in column) else max(0, _gap(columns))


def _counters(stems: list[str]) -> list[int]:
    """Return the whole number at each name's end if the names differ only in it and it must be a counter; else none.

    It must be a counter if no value is missing, or if it has five or seven digits, unlike dates and times. This fast path takes
    seconds for millions of names.
    """
    prefixes = {stem.rstrip("0123456789") for stem in stems}
    prefix = prefixes.pop()
    widths = {len(stem) - len(prefix) for stem in stems}
    if prefixes or 0 in widths or re.search(r"\de-$", prefix) or MINUS.search(stems[0]):
        return []
    numbers = [int(stem[len(prefix) :]) for stem in stems]
    last = max(numbers)
    is_complete = len(numbers) == last - min(numbers) + 1
    is_counter = is_complete or (widths in ({5}, {7}) and last not in FULL)
    return numbers if is_counter and len(set(numbers)) == len(numbers) else []


def _are_lettered(stems: list[str]) -> bool:
    """Return whether the names count by letters without gaps: the order of words (one, two; jan, feb; VI, VII) is unknown."""
    varying = [place for place, letters in enumerate(zip(*stems, strict=False)) if len(set(letters)) > 1]
    if len(set(map(len, stems))) > 1 or not varying:
        return False
    counters = [stem[varying[0] : varying[-1] + 1] for stem in stems]
    if not all(re.fullmatch("[a-z]+", counter) for counter in counters):
        return False
    values = [int(counter.translate(AS_DIGITS), 26) for counter in counters]
    return sorted(values) == list(range(min(values), max(values) + 1))


def _have_later_counter(columns: Columns) -> bool:
    """Return whether a number counts all images without gaps in another order than the numbers before it."""
    order = _order(columns)
    for column in columns[1:]:
        if not all(_value(text).denominator == 1 for text in column) or len(set(column)) < len(column):
            continue
        # A few values without gaps, such as three seconds, may be chance.
        is_from_start = column is columns[-1] and min(map(_value, column)) <= 1
        if len(column) > (2 if is_from_start else 3) and _gap([column]) == 0 and _order([column]) != order:
            return True
    return False


def _columns(stems: list[str], pattern: str) -> Columns:
    """Return the numbers that differ between the names; empty if the names differ in more than numbers."""
    parts = [re.split(pattern, stem) for stem in stems]
    if len({tuple(part[::2]) for part in parts}) > 1:
        return []
    columns = zip(*(part[1::2] for part in parts), strict=True)
    return [column for column in columns if len(set(map(_value, column))) > 1]


def _between_columns(stems: list[str]) -> str:
    """Return the text between the first and the last differing number, in the first name: words there explain the numbers."""
    parts = [re.split(WHOLE, stem) for stem in stems]
    varying = [place for place, texts in enumerate(zip(*parts, strict=False)) if place % 2 and len(set(texts)) > 1]
    return "".join(parts[0][varying[0] + 1 : varying[-1]]) if varying else ""


def _decimals(stems: list[str]) -> Columns:
    return _columns(stems, COMMA if all(re.search(r"\d,\d", stem) for stem in stems) else POINT)


def _value(text: str) -> Fraction | int:
    return int(text) if text.isdigit() else Fraction(text.replace(",", "."))


def _order(columns: Columns) -> list[int]:
    """Return the indices of the names in the order of their numbers; empty if two names have the same numbers."""
    numbers = list(zip(*(map(_value, column) for column in columns), strict=True))
    return sorted(range(len(numbers)), key=numbers.__getitem__) if len(set(numbers)) == len(numbers) else []


def _gap(columns: Columns) -> int:
    """Return how many numbers are missing in a single column; -1 if there are several columns or none."""
    if len(columns) != 1:
        return -1
    numbers = {int(_value(text)) for text in columns[0]}
    return max(numbers) - min(numbers) + 1 - len(numbers)


def _fractions(decimals: Columns) -> list[tuple[str, str]]:
    """Return the whole part and the digits after the point of every number that has a point, as written."""
    matches = (re.match(r"(\d+)[.,](\d+)", text) for column in decimals for text in column)
    return [(match[1], match[2]) for match in matches if match]


def _has_trailing_zeros(decimals: Columns) -> bool:
    """Return whether decimals of unequal length end in zeros, as no program writes them: they are probably counters."""
    for column in decimals:  # including whole numbers: 999 beside 1.000
        digits = [match[1] if (match := re.search(r"[.,](\d+)", text)) else "" for text in column]
        if len(set(map(len, digits))) > 1 and any(len(fraction) > 1 and fraction[-1] == "0" for fraction in digits):
            return True
    return False


def _is_no_counter(decimals: Columns) -> bool:
    """Return whether the numbers have even steps, as times do, or the digits after the points cannot be counters."""
    fractions = _fractions(decimals)
    if any(len(digits) > 1 and digits[0] == "0" for _, digits in fractions) or _is_even(decimals):
        return True
    counts: dict[str, list[int]] = defaultdict(list)
    for whole, digits in fractions:
        counts[whole].append(int(digits))
    steps = [after - before for group in counts.values() for before, after in pairwise(sorted(group))]
    has_stride = len(steps) > 1 and len(set(steps)) == 1
    return not has_stride and max(map(max, counts.values())) > MAX_COUNTER_RATIO * max(map(len, counts.values()))


def _is_even(columns: Columns) -> bool:
    """Return whether the names differ in one number, in equal steps."""
    steps = [after - before for before, after in pairwise(sorted(map(_value, columns[0])))]
    return len(columns) == 1 and len(steps) > 1 and max(steps) - min(steps) < min(steps) / 100


def _odd_names(stems: list[str]) -> list[int]:
    """Return the indices of names whose form is not the most common one; else of names with equal numbers; else of all."""
    forms = [tuple(re.split(POINT, stem)[::2]) for stem in stems]
    ((common, n_common),) = Counter(forms).most_common(1)
    if n_common == 1:
        return list(range(len(stems)))
    if odd := [place for place, form in enumerate(forms) if form != common]:
        return odd
    keys = list(zip(*(map(_value, column) for column in _columns(stems, POINT)), strict=True)) or stems
    counts = Counter(keys)
    return [place for place, key in enumerate(keys) if counts[key] > 1] or list(range(len(stems)))
