"""Tables and sizes as text for terminals, and as Markdown with escaped content."""

import re
import textwrap
from collections.abc import Callable, Sequence
from itertools import zip_longest

from rich.cells import cell_len

from cache.printable import printable

Cells = Sequence[Sequence[str]]
Table = Callable[..., str]  # one of the two below

GAP = 2  # spaces between columns
NBSP = "\u00a0"  # marks spaces at which no line is broken
# Characters with a meaning in Markdown, or in HTML within it, except underscores inside words.
MARKS = re.compile(r"[\\`*\[\]<>|&~$#]|(?<![^\W_])_|_(?![^\W_])")


class Markup(str):
    """Markdown, which `escaped` returns unchanged."""


def escaped(text: str) -> str:
    """Return Markdown that shows the text literally."""
    if isinstance(text, Markup):
        return text
    return Markup(MARKS.sub(r"\\\g<0>", printable(text)))


def code(text: str) -> Markup:
    """Return the text as a Markdown code span, with a fence longer than any run of backticks in it."""
    text = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if fence != "`" else ""
    return Markup(f"{fence}{space}{text}{space}{fence}")


def or_dash(value: float | None, form: str = "{:.1f} %") -> str:
    """Format a number as a cell, by default as a percentage; "-" for None."""
    return "-" if value is None else form.format(value)


def aligned(lines: Cells, n_left: int = 1, columns: int | None = None) -> str:
    """Return a text table with the first `n_left` columns aligned left, the others right.

    With `columns`, the width of the terminal, cells of a wider table are wrapped between words, if the table then fits.
    """
    shown = [[printable(cell) for cell in line] for line in lines]
    narrow = narrowed(shown, columns) if columns else None
    widths = narrow or [max(map(cell_len, column)) for column in zip(*shown, strict=True)]

    def padded(column: int, cell: str | None) -> str:
        space = " " * (widths[column] - cell_len(cell or ""))
        return (cell or "") + space if column < n_left else space + (cell or "")

    text = []
    for line in shown:
        parts = [_lines_of(cell, width) if narrow else [cell] for cell, width in zip(line, widths, strict=True)]
        text += [(" " * GAP).join(map(padded, range(len(line)), part)).rstrip() for part in zip_longest(*parts)]
    return "\n".join(text).replace(NBSP, " ")


def narrowed(lines: Cells, columns: int) -> list[int] | None:
    """Return column widths that fit into `columns` without breaking words; None if there are none."""
    cells = list(zip(*lines, strict=True))
    longest = [max(cell_len(word) for cell in column for word in cell.split(" ")) for column in cells]
    widths = [max(map(cell_len, column)) for column in cells]
    room = columns - GAP * (len(widths) - 1)
    if sum(longest) > room:
        return None
    while sum(widths) > room:
        slack = [width - least for width, least in zip(widths, longest, strict=True)]
        widths[slack.index(max(slack))] -= 1
    return widths


def _lines_of(cell: str, width: int) -> list[str]:
    indent = " " * (len(cell) - len(cell.lstrip(" ")))
    return wrap_words(cell, width, below=indent) or [""] if cell_len(cell) > width else [cell]


def duration(seconds: float) -> str:
    """Return a rounded duration as text: 40 s, 12 min, 3.5 h, 2.1 days."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def wrap_words(text: str, columns: int, begin: str = "", below: str = "") -> list[str]:
    """Wrap a text at `columns`, between words only, so that paths and ids can be copied."""
    return textwrap.wrap(
        printable(text),
        columns,
        initial_indent=begin,
        subsequent_indent=below,
        break_long_words=False,
        break_on_hyphens=False,
    )


def markdown(lines: Cells, n_left: int = 1) -> str:
    """Return a Markdown table whose first line is the header, with the first `n_left` columns aligned left, the others right.

    Cells are escaped, except `Markup`.
    """
    head, *body = [[escaped(cell).replace("\n", " ").replace(NBSP, " ") for cell in line] for line in lines]
    rule = ["---" if column < n_left else "---:" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))


def human_size(size_bytes: float) -> str:
    """Return a size as text such as `3.2 GB`, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"
