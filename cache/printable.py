"""Making untrusted text (annotations, file names, records) safe for a terminal, a log or a page."""

from __future__ import annotations

import logging
import traceback
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

# Control characters (escape sequences begin with one), format characters (they reverse or hide text), lone surrogates (bytes
# of a file name that are not UTF-8), and line separators.
UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
JOINERS = {"\u200c", "\u200d"}  # needed in Persian, Hindi and emoji


def printable(text: str) -> str:
    """Return the text as one line, with control characters, line ends included, escaped."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(repr(character)[1:-1] if is_unprintable(character) else character for character in text)


def printable_value(value: Any) -> Any:
    """Return a value for a template: a text as `printable`; a number, or our own markup, unchanged."""
    return printable(value) if type(value) is str else value


def printable_lines(lines: Iterable[str]) -> str:
    """Return the lines as one text, each line made `printable`."""
    return "\n".join(map(printable, lines))


def shortened(text: str, most: int) -> str:
    """Return the text; if it has more than `most` characters, its beginning and "..."."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def cut_in_the_middle(text: str, most: int) -> str:
    """Return the text; if it has more than `most` characters, its beginning, "..." and its end."""
    end = (most - 3) // 2
    return text if len(text) <= most else f"{text[: most - 3 - end]}...{text[-end:]}"


def first_few(texts: Sequence[str], most: int) -> list[str]:
    """Return the first `most` texts and, if there are more, "and N more"."""
    return [*texts[:most], *[f"and {len(texts) - most} more"] * (len(texts) > most)]


def first_of(texts: Sequence[object], most: int) -> str:
    """Return the first `most` texts, and "..." if there are more; "-" if there are none."""
    return ", ".join([*map(str, texts[:most]), *["..."] * (len(texts) > most)]) or "-"


def traceback_text(error: BaseException) -> str:
    """Return the traceback of an error, with the message as one printable line."""
    entries = traceback.format_exception(error)
    return printable_lines(
        line
        for entry in entries
        for line in (entry.splitlines() if entry.startswith(("  ", "\n", "Traceback")) else [entry.rstrip("\n")])
    )


def is_unprintable(character: str) -> bool:
    """Return whether a terminal would interpret a character instead of displaying it."""
    return unicodedata.category(character) in UNPRINTABLE and character not in JOINERS


class PrintableRecord(logging.LogRecord):
    """A log record with a printable message; only a traceback has several lines."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        if self.exc_info and self.exc_info[1] is not None:
            self.exc_text = traceback_text(self.exc_info[1])

    def getMessage(self) -> str:
        """Return the message as one printable line."""
        return printable(super().getMessage().rstrip("\n"))


def keep_logs_printable() -> None:
    """Make every log record of this process a `PrintableRecord`."""
    logging.setLogRecordFactory(PrintableRecord)


def counted(number: int, plural: str) -> str:
    """Return a number with a noun: "1 video", "2 videos", "1 query"."""
    singular = f"{plural[:-3]}y" if plural.endswith("ies") else plural.removesuffix("s")
    return f"{number:,} {singular if number == 1 else plural}"
