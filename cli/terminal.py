"""Output of commands: text for people, without control characters, and data for programs, verbatim."""

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
MIN_WIDTH = 20  # at about 3 columns, rich does not finish the help's tables


def print_text(text: str) -> None:
    """Print lines with control characters escaped, and on a terminal wrapped at words."""
    lines = text.split("\n")
    if is_terminal():
        lines = [part for line in lines for part in wrap_words(line, terminal_width(), below=_indent(line)) or [""]]
    print(printable_lines(lines))


def _indent(line: str) -> str:
    return " " * (len(line) - len(line.lstrip(" ")) + 2)


def write_output(text: str, output: Path | None, content: Any = None) -> None:
    """Write a text to a file and print its path; without a file, print the text.

    Args:
        content: unless None, printed as JSON instead of path or text.
    """
    if output is not None:
        write_for_user(output, text.encode())
    if content is not None:
        print_json(content)
    else:
        print_text(text if output is None else str(output))


def fitted(rows: Sequence[Sequence[str]], n_left: int = 1) -> str:
    """Return rows as a table that fits into the terminal, as far as its words allow."""
    return aligned(rows, n_left, terminal_width())


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows as a table with a head that fits into the terminal; to a file or pipe, one line per row without the head."""
    if is_terminal():
        print_text(fitted([head, *rows], n_left=len(head)))
    else:
        print(aligned(rows, n_left=len(head)))


def help_console() -> Console:
    """Return the console for `--help`: as wide as the terminal; to a file or pipe, one line per option.

    It raises `BrokenPipeError` for a closed pipe, as `print` does.
    """
    from rich.console import Console

    class HelpConsole(Console):
        def on_broken_pipe(self) -> NoReturn:
            raise BrokenPipeError

    if not is_terminal():
        return HelpConsole(width=NO_WRAPPING)
    console = HelpConsole()
    return console if console.width >= MIN_WIDTH else HelpConsole(width=MIN_WIDTH)


def set_up_log(quiet: bool, verbose: bool) -> None:
    """Log to standard error, above progress bars: only warnings if `quiet`, also ids of artifacts if `verbose`."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[LinesBesideBars(_styled)])
    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    logging.getLogger("sevila").setLevel(level)


def is_verbose() -> bool:
    """Return whether ids of artifacts are to be shown."""
    return logging.getLogger("sevila").isEnabledFor(logging.DEBUG)


def print_last(text: str, colour: str = "") -> None:
    """Print the last message of a command to standard error, after removing progress bars."""
    end_bars()
    print(_styled(text, colour=colour), file=sys.stderr, flush=True)


def _styled(line: str, level: int = logging.INFO, colour: str = "") -> str:
    """Return a message for standard error: on a terminal wrapped at words, a warning in colour; else unchanged."""
    if not sys.stderr.isatty():
        return line
    columns = max(_columns(sys.stderr), MIN_WIDTH)
    lines = [part for row in line.split("\n") for part in wrap_words(row, columns, below="  ") or [""]]
    return in_colour("\n".join(lines), colour or (YELLOW if level >= logging.WARNING else ""))


def _columns(stream: TextIO) -> int:
    """Return the columns of the terminal of this stream, which may not be that of stdout, unless COLUMNS is set."""
    with suppress(OSError, ValueError):
        if not os.environ.get("COLUMNS"):
            return os.get_terminal_size(stream.fileno()).columns
    return shutil.get_terminal_size().columns


def in_colour(text: str, colour: str) -> str:
    """Return a text in a colour if standard error is a terminal with colours, and NO_COLOR is not set."""
    has_colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
    return f"{colour}{text}{PLAIN}" if colour and has_colours else text


def is_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def terminal_width() -> int:
    """Return the maximum width of text: the terminal's, or `NO_WRAPPING` for a file or pipe."""
    return max(shutil.get_terminal_size().columns, MIN_WIDTH) if is_terminal() else NO_WRAPPING


def print_json(content: Any) -> None:
    """Print a value as JSON; dataclasses become mappings."""
    print_data(printable_json(json.dumps(content, indent=1, ensure_ascii=False, default=vars)) + "\n")


def printable_json(text: str) -> str:
    r"""Return equal JSON with control characters, except line ends, as \u escapes."""
    return "".join(json.dumps(char)[1:-1] if char != "\n" and is_unprintable(char) else char for char in text)


def print_data(text: str) -> None:
    """Print data for programs, verbatim; to a file or pipe as UTF-8, whatever the locale."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8")
    print(text, end="")


def write_data(text: str, output: Path | None) -> None:
    """Write data for programs to a file, or print it."""
    if output is None:
        print_data(text)
    else:
        write_for_user(output, text.encode())


def set_up_output(is_program: bool) -> None:
    """Make log and tracebacks printable, and escape characters that a terminal's encoding lacks."""
    keep_logs_printable()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if is_program:
        logging.captureWarnings(True)
        sys.excepthook = lambda kind, error, where: print(traceback_text(error), file=sys.stderr)


def flush_output() -> None:
    """Flush standard output and error, as errors at Python's exit would be lost."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()


def drop_output() -> bool:
    """Redirect outputs that accept no more data to /dev/null; return whether there were any."""
    refusing = [stream for stream in (sys.stdout, sys.stderr) if stream is not None and _refuses(stream)]
    for stream in refusing:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return bool(refusing)


def _refuses(stream: TextIO) -> bool:
    poll = select.poll()
    try:
        poll.register(stream.fileno(), select.POLLOUT)
    except OSError:  # not a file
        return False
    try:
        stream.flush()
    except OSError:
        return True
    # The buffer may be empty although an earlier write failed.
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
