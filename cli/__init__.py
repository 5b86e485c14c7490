"""The `sevila` command: parse options, call the other rooms, print; one file per group of commands."""

from __future__ import annotations

import errno
import gc
import shlex
import signal
import sys
from collections.abc import Sequence

import pipeline  # noqa: F401 - clears variables that BLAS libraries read at import, before cache imports numpy
from cache.errors import SevilaError, sentence
from cache.printable import printable
from cli.terminal import RED, drop_output, flush_output, print_last, set_up_output

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 after an error message, 130 after an interrupt.

    141, as after SIGPIPE, if the reader of the output has closed it.

    Raises:
        SystemExit: with 2, after a line that describes the error in the arguments.
    """
    set_up_output(is_program=arguments is None)
    try:
        try:
            return _status(sys.argv[1:] if arguments is None else arguments)
        finally:
            flush_output()
            if arguments is None:  # saves the garbage collection at exit
                gc.freeze()
    except OSError as error:
        return _failed_by_machine(error)


def _status(arguments: Sequence[str]) -> int:
    from cli.app import run_command
    from cli.options import UsageError

    try:
        if sys.flags.optimize:
            raise SevilaError("Python's option -O (PYTHONOPTIMIZE) removes checks from libraries; run without it")
        return run_command(arguments, shlex.join(["sevila", *arguments]))
    except UsageError as error:
        _failed(str(error))
        raise SystemExit(2) from error
    except SevilaError as error:
        return _failed(str(error))
    except OSError as error:
        return _failed_by_machine(error)
    except KeyboardInterrupt:
        print_last("interrupted; the same command resumes from the last finished shard or checkpoint")
        return 130


def _failed_by_machine(error: OSError) -> int:
    """Print an error of the machine (disk full, permission denied, mount gone), or of the output, and return the status."""
    is_refused = drop_output()
    if is_refused and isinstance(error, BrokenPipeError):
        return 128 + signal.SIGPIPE
    # Errors of the store name a file; FULL covers an unbuffered output, which keeps no trace of a failed write.
    if error.filename or not (is_refused or error.errno in FULL):
        return _failed(sentence(error))
    return _failed(
        f"standard output: {error.strerror}; the output is incomplete: redirect it to a disk with free space"
    )


def _failed(message: str) -> int:
    try:
        print_last(f"error: {printable(message)}", RED)
    except OSError:  # stderr is closed, too; the exit status remains
        drop_output()
    return 1
