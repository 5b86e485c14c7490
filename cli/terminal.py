"""Output of commands: text for people, which steers no terminal, and data for programs, exactly."""

from __future__ import annotations

import io
import json
import logging
import os
import select
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from cache.files import write_for_user
from cache.printable import is_unprintable, keep_logs_printable, printable_lines, traceback_text
from pipeline.engine.progress import LinesBesideBars, end_bars
from pipeline.text_table import aligned, wrap_words

if TYPE_CHECKING:
    from rich.console import Console

NO_WRAPPING = 10_000
RED, YELLOW, PLAIN = "\x1b[31m", "\x1b[33m", "\x1b[0m"
LEAST_WIDTH = 20  # below some 3 letters, the help's tables would never end


def print_text(text: str) -> None:
    """Print lines without what would steer a terminal, escaped; there, broken between words only."""
    lines = text.split("\n")
    if is_terminal():
        lines = [part for line in lines for part in wrap_words(line, terminal_width(), below=_indent(line)) or [""]]
    print(printable_lines(lines))


def _indent(line: str) -> str:
    return " " * (len(line) - len(line.lstrip(" ")) + 2)


def write_output(text: str, output: Path | None, content: Any = None) -> None:
    """Write a text to a file and print where; or print the text itself where no file is wanted.

    Args:
        content: what is printed as JSON in place of either, unless it is None.
    """
    if output is not None:
        write_for_user(output, text.encode())
    if content is not None:
        print_json(content)
    else:
        print_text(text if output is None else str(output))


def fitted(rows: Sequence[Sequence[str]], n_left: int = 1) -> str:
    """Return rows as a table that is no wider than the terminal, where words allow."""
    return aligned(rows, n_left, terminal_width())


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows as a table under its head, as wide as the terminal; into a file or pipe, a line a row and no head."""
    if is_terminal():
        print_text(fitted([head, *rows], n_left=len(head)))
    else:
        print(aligned(rows, n_left=len(head)))


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


def set_up_log(quiet: bool, verbose: bool) -> None:
    """Have lines for people go to standard error, above the bars there: warnings alone where it is quiet, ids where verbose."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[LinesBesideBars(_styled)])
    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    logging.getLogger("sevila").setLevel(level)


def is_verbose() -> bool:
    """Whether ids are wanted."""
    return logging.getLogger("sevila").isEnabledFor(logging.DEBUG)


def print_last(text: str, colour: str = "") -> None:
    """Print why a command ends to standard error, where its bars were."""
    end_bars()
    print(_styled(text, colour=colour), file=sys.stderr, flush=True)


def _styled(line: str, level: int = logging.INFO, colour: str = "") -> str:
    """Return a line as a terminal shows it: broken between words, a warning in colour; elsewhere as it is."""
    if not sys.stderr.isatty():
        return line
    columns = max(_columns(sys.stderr), LEAST_WIDTH)
    lines = [part for each in line.split("\n") for part in wrap_words(each, columns, below="  ") or [""]]
    return in_colour("\n".join(lines), colour or (YELLOW if level >= logging.WARNING else ""))


def _columns(stream: TextIO) -> int:
    """Return the columns of a stream's own terminal, whatever the other one goes to, unless COLUMNS says how many."""
    with suppress(OSError, ValueError):
        if not os.environ.get("COLUMNS"):
            return os.get_terminal_size(stream.fileno()).columns
    return shutil.get_terminal_size().columns


def in_colour(text: str, colour: str) -> str:
    """Return a text in a colour on standard error, if that is a terminal that has some and nobody has asked for none."""
    has_colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
    return f"{colour}{text}{PLAIN}" if colour and has_colours else text


def is_terminal() -> bool:
    """Whether people read what is printed as it is printed."""
    return sys.stdout is not None and sys.stdout.isatty()


def terminal_width() -> int:
    """Return how wide text for people may be; into a file or pipe a line is as long as it is."""
    return max(shutil.get_terminal_size().columns, LEAST_WIDTH) if is_terminal() else NO_WRAPPING


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


def write_data(text: str, output: Path | None) -> None:
    """Write what programs read to a file, or print it."""
    if output is None:
        print_data(text)
    else:
        write_for_user(output, text.encode())


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
