"""Text that others wrote (annotations, file names, records), fit for a terminal, a log or a page."""

from __future__ import annotations

import logging
import traceback
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

# Control characters (escape sequences begin with one), formats (they reverse the direction of text, or hide it), halves of
# surrogate pairs (bytes of a file name that are no UTF-8), and what separates lines.
UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
JOINERS = {"\u200c", "\u200d"}  # part of how Persian, Hindi and emoji are written


def printable(text: str) -> str:
    """Return the text as one line that steers nothing: what a terminal would obey, line ends included, is shown escaped."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text))


def printable_value(value: Any) -> Any:
    """Return a value for a template: a text as `printable`; a number, or markup of our own, as it is."""
    return printable(value) if type(value) is str else value


def printable_lines(lines: Iterable[str]) -> str:
    """Return the lines as one text in which every line end is one of ours."""
    return "\n".join(map(printable, lines))


def shortened(text: str, most: int) -> str:
    """Return the text, or where it has more than `most` characters its beginning and "..."."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def cut_in_the_middle(text: str, most: int) -> str:
    """Return the text, or where it has more than `most` characters its beginning, "..." and its end."""
    end = (most - 3) // 2
    return text if len(text) <= most else f"{text[: most - 3 - end]}...{text[-end:]}"


def first_of(texts: Sequence[object], most: int) -> str:
    """Return the first of some texts, and "..." where there are more; "-" for none."""
    return ", ".join([*map(str, texts[:most]), *["..."] * (len(texts) > most)]) or "-"


def traceback_text(error: BaseException) -> str:
    """Return the traceback of an error; its lines are ours, its message is one printable line."""
    entries = traceback.format_exception(error)
    return printable_lines(
        line
        for entry in entries
        for line in (entry.splitlines() if entry.startswith(("  ", "\n", "Traceback")) else [entry.rstrip("\n")])
    )


def is_unprintable(sign: str) -> bool:
    """Whether a terminal would obey a character instead of showing it."""
    return unicodedata.category(sign) in UNPRINTABLE and sign not in JOINERS


def _shown(sign: str) -> str:
    return repr(sign)[1:-1] if is_unprintable(sign) else sign


class PrintableRecord(logging.LogRecord):
    """A log record that reaches every handler as printable text; only a traceback has several lines."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        if self.exc_info and self.exc_info[1] is not None:
            self.exc_text = traceback_text(self.exc_info[1])

    def getMessage(self) -> str:
        """Return the message as one printable line."""
        return printable(super().getMessage().rstrip("\n"))


def keep_logs_printable() -> None:
    """Have every log record of this process, whatever writes it, be a `PrintableRecord`."""
    logging.setLogRecordFactory(PrintableRecord)


def counted(number: int, plural: str) -> str:
    """Return a number with what it counts: "1 video", "2 videos", "1 query"."""
    singular = f"{plural[:-3]}y" if plural.endswith("ies") else plural.removesuffix("s")
    return f"{number:,} {singular if number == 1 else plural}"
