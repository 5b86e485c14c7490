"""The `sevila` command: reads options, calls, prints; a file for each group of commands."""

from __future__ import annotations

import errno
import gc
import shlex
import signal
import sys
from collections.abc import Sequence

import pipeline  # noqa: F401 - clears what BLAS libraries read when they are loaded, as cache loads numpy
from cache.errors import SevilaError, sentence
from cache.printable import printable
from cli.terminal import RED, drop_output, flush_output, print_last, set_up_output

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 for an error that the message explains, 130 when interrupted.

    141, as if ended by SIGPIPE, where what reads our output has read enough.

    Raises:
        SystemExit: with 2, after a line that says what is wrong with the arguments.
    """
    set_up_output(is_program=arguments is None)
    try:
        try:
            return _status(sys.argv[1:] if arguments is None else arguments)
        finally:
            flush_output()
            if arguments is None:  # at its end Python would look through all that there is once more
                gc.freeze()
    except OSError as error:
        return _failed_by_machine(error)


def _status(arguments: Sequence[str]) -> int:
    from cli.app import run_command
    from cli.options import UsageError

    try:
        if sys.flags.optimize:
            raise SevilaError("Python's option -O, or PYTHONOPTIMIZE, takes checks out of libraries: run without it")
        return run_command(arguments, shlex.join(["sevila", *arguments]))
    except UsageError as error:
        _failed(str(error))
        raise SystemExit(2) from error
    except SevilaError as error:
        return _failed(str(error))
    except OSError as error:
        return _failed_by_machine(error)
    except KeyboardInterrupt:
        print_last("interrupted; the same command goes on from the last finished shard or state")
        return 130


def _failed_by_machine(error: OSError) -> int:
    """Disk full, permission denied, a mount gone: what is finished stays. Or the reader of our output takes no more of it."""
    is_refused = drop_output()
    if is_refused and isinstance(error, BrokenPipeError):
        return 128 + signal.SIGPIPE
    # Errors of the store name a file. An output without a buffer shows no trace of what it has refused.
    if error.filename or not (is_refused or error.errno in FULL):
        return _failed(sentence(error))
    return _failed(f"standard output: {error.strerror}; not all was printed. Print to where there is room")


def _failed(message: str) -> int:
    try:
        print_last(f"error: {printable(message)}", RED)
    except OSError:  # there is nowhere to print to; the exit status says it
        drop_output()
    return 1
