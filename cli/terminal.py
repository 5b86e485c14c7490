"""Output of commands: text for people, which steers no terminal, and data for programs, exactly."""

from __future__ import annotations

import io
import json
import logging
import os
import select
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from cache.printable import is_unprintable, keep_logs_printable, printable, printable_lines, traceback_text
from pipeline.text_table import aligned

if TYPE_CHECKING:
    from rich.console import Console

NO_WRAPPING = 10_000
LEAST_WIDTH = 20  # below some 3 letters, the help's tables would never end


def print_text(text: str) -> None:
    """Print lines without what would steer a terminal, escaped: records may come from anybody."""
    print(printable_lines(text.split("\n")))


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows as a table under its head, wrapped as the terminal is wide; into a file or pipe, a line a row and no head."""
    if not is_terminal():
        print(aligned(rows, n_left=len(head)))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*head, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for row in rows:
        table.add_row(*(Text(printable(cell), overflow="fold") for cell in row))
    Console().print(table)


def help_console() -> Console:
    """Return where `--help` goes: as wide as the terminal, or a line an option into a file or pipe.

    To it a reader that has read enough is the error that it is to `print`.
    """
    from rich.console import Console

    class HelpConsole(Console):
        def on_broken_pipe(self) -> NoReturn:
            raise BrokenPipeError

    if not is_terminal():
        return HelpConsole(width=NO_WRAPPING)
    console = HelpConsole()
    return console if console.width >= LEAST_WIDTH else HelpConsole(width=LEAST_WIDTH)


def is_terminal() -> bool:
    """Whether people read what is printed as it is printed."""
    return sys.stdout is not None and sys.stdout.isatty()


def print_json(content: Any) -> None:
    """Print a value as JSON; a dataclass is the mapping of its fields."""
    print_data(printable_json(json.dumps(content, indent=1, ensure_ascii=False, default=vars)) + "\n")


def printable_json(text: str) -> str:
    """Return JSON that means the same and steers no terminal: what would is escaped as JSON escapes it; line ends are ours."""
    return "".join(_as_json(sign) if sign != "\n" and is_unprintable(sign) else sign for sign in text)


def _as_json(sign: str) -> str:
    digits = sign.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{digits[start : start + 4]}" for start in range(0, len(digits), 4))


def print_data(text: str) -> None:
    """Print what programs read, exactly; where it goes into a file or a pipe, as UTF-8 whatever a terminal here would take."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8")
    print(text, end="")


def set_up_output(is_program: bool) -> None:
    """Have what others wrote reach terminal and log printable, and nothing fail because a terminal lacks a letter."""
    keep_logs_printable()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if is_program:
        logging.captureWarnings(True)
        sys.excepthook = lambda kind, error, where: print(traceback_text(error), file=sys.stderr)


def flush_output() -> None:
    """Write what is printed, now: when Python ends, an error of it would go to nobody."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()


def drop_output() -> bool:
    """Let nothing more be written to an output that takes nothing; return whether there is one."""
    refusing = [stream for stream in (sys.stdout, sys.stderr) if stream is not None and _refuses(stream)]
    for stream in refusing:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return bool(refusing)


def _refuses(stream: TextIO) -> bool:
    poll = select.poll()
    try:
        poll.register(stream.fileno(), select.POLLOUT)
    except OSError:  # no file
        return False
    try:
        stream.flush()
    except OSError:
        return True
    # Nothing may be left to write: what failed to be written can be gone.
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
