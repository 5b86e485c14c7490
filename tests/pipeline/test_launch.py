"""Processes of a training end together; errors that a user can fix are one sentence."""

import errno
import logging
import os
import signal
import threading
import warnings
from contextlib import suppress
from pathlib import Path

import pytest

from cache.errors import SevilaError
from pipeline.training.launch import run_in_subprocess, start_processes


def on_a_full_disk() -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "/store/partial/x")


def test_a_full_disk_in_a_training_process_raises_a_one_line_error() -> None:
    with pytest.raises(SevilaError, match=r"^/store/partial/x: No space left on device; remove the cause"):
        start_processes(1, on_a_full_disk, (), "train")


def refuse() -> None:
    raise SevilaError("give other weights")


def test_a_user_error_in_one_or_several_processes_is_raised_unchanged() -> None:
    for call in (lambda: run_in_subprocess(refuse), lambda: start_processes(2, refuse, (), "train")):
        with pytest.raises(SevilaError, match=r"^give other weights$"):
            call()


def do_nothing(argument: bytes) -> None:
    """A training process that ends at once."""


def kill_the_first_child() -> None:
    """Wait for a child process spawned by `multiprocessing` and kill it."""
    while True:
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == os.getpid() and b"spawn_main" in (folder / "cmdline").read_bytes():
                    return os.kill(int(folder.name), signal.SIGKILL)


def test_a_process_killed_before_it_read_its_arguments_ends_the_training() -> None:
    killer = threading.Thread(target=kill_the_first_child)
    killer.start()
    message = r"process \d of 2 was ended by SIGKILL \(out of memory\?\), so the others were ended too"
    with pytest.raises(SevilaError, match=message):
        start_processes(2, do_nothing, (bytes(1 << 20),), "train")  # more than a pipe holds
    killer.join()


class ErrorOfALibrary(Exception):
    """An error that pickle writes but cannot read."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} {where}")


def log_and_warn() -> str:
    logging.getLogger("h5py").warning("odd", extra={"error": ErrorOfALibrary("no", "here")})
    logging.getLogger("sevila").info("step %d", 1)
    logging.getLogger("torch").info("not shown")
    warnings.warn("deprecated", stacklevel=1)
    return "result"


def test_log_records_of_a_process_are_logged_in_the_parent(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sevila"):
        assert run_in_subprocess(log_and_warn) == "result"
        start_processes(2, log_and_warn, (), "train")
    steps = [message for message in caplog.messages if message == "step 1"]
    assert len(steps) == 2  # of the one process, and of the first of two
    for text, count in (("UserWarning: deprecated", 3), ("a log record of another process cannot be shown", 3)):
        assert sum(text in message for message in caplog.messages) == count
    assert len(caplog.messages) == 8
