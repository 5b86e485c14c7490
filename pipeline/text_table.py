"""Tables and sizes for a terminal, and for pages in Markdown, where other people's text stands as it is and does nothing."""

import re
import textwrap
from collections.abc import Callable, Sequence

from rich.cells import cell_len

from cache.printable import printable

Cells = Sequence[Sequence[str]]
Table = Callable[..., str]  # one of the two below

# What Markdown, or HTML in it, reads as more than itself; an underscore inside a word is one.
MARKS = re.compile(r"[\\`*\[\]<>|&~$#]|(?<![^\W_])_|_(?![^\W_])")


class Markup(str):
    """Markdown of our own making, which is not escaped again."""


def escaped(text: str) -> str:
    """Return other people's text as Markdown that shows it."""
    if isinstance(text, Markup):
        return text
    return Markup(MARKS.sub(r"\\\g<0>", printable(text)))


def code(text: str) -> Markup:
    """Return a text as code inside a line; Markdown obeys nothing in it but what ends it."""
    text = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if fence != "`" else ""
    return Markup(f"{fence}{space}{text}{space}{fence}")


def or_dash(value: float | None, form: str = "{:.1f} %") -> str:
    """Return a number as a cell, a percentage unless `form` says otherwise; "-" where there is none."""
    return "-" if value is None else form.format(value)


def aligned(lines: Cells, n_left: int = 1) -> str:
    """Cells as columns, a line a row however wide; the first `n_left` columns to the left, the others to the right."""
    shown = [[printable(cell) for cell in line] for line in lines]
    widths = [max(map(cell_len, column)) for column in zip(*shown, strict=True)]

    def padded(column: int, cell: str) -> str:
        space = " " * (widths[column] - cell_len(cell))
        return cell + space if column < n_left else space + cell

    return "\n".join("  ".join(map(padded, range(len(line)), line)).rstrip() for line in shown)


def duration(seconds: float) -> str:
    """Return a duration in words, as exact as an estimate is: 40 s, 12 min, 3.5 h, 2.1 days."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def wrap_words(text: str, columns: int, begin: str = "", below: str = "") -> list[str]:
    """Return a text as lines of so many columns, broken between words only: a path or an id stays one that can be copied."""
    return textwrap.wrap(
        printable(text),
        columns,
        initial_indent=begin,
        subsequent_indent=below,
        break_long_words=False,
        break_on_hyphens=False,
    )


def markdown(lines: Cells, n_left: int = 1) -> str:
    """Cells as a table in Markdown, the first line its head; the first `n_left` columns to the left, the others to the right.

    Cells are escaped but for `Markup`.
    """
    head, *rest = [[escaped(cell).replace("\n", " ") for cell in line] for line in lines]
    rule = ["---" if column < n_left else "---:" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rest))


def human_size(size_bytes: float) -> str:
    """Return `3.2 GB` and the like, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"
