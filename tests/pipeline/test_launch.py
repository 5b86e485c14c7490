"""Processes of a training end together, and say why in a sentence where a user can fix it."""

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


def test_full_disk_in_a_process_of_a_training_is_one_sentence_not_a_traceback() -> None:
    with pytest.raises(SevilaError, match=r"^/store/partial/x: No space left on device; remove the cause"):
        start_processes(1, on_a_full_disk, (), "train")


def refuse() -> None:
    raise SevilaError("give other weights")


def test_what_a_user_is_to_read_arrives_as_the_same_error_from_one_process_and_from_several() -> None:
    for call in (lambda: run_in_subprocess(refuse), lambda: start_processes(2, refuse, (), "train")):
        with pytest.raises(SevilaError, match=r"^give other weights$"):
            call()


def nothing(argument: bytes) -> None:
    """A part of a training that is over at once."""


def kill_the_first_child() -> None:
    """Wait for a process below this one that `multiprocessing` has spawned, and kill it."""
    while True:
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == os.getpid() and b"spawn_main" in (folder / "cmdline").read_bytes():
                    return os.kill(int(folder.name), signal.SIGKILL)


def test_a_process_killed_before_it_has_read_its_arguments_ends_the_training() -> None:
    killer = threading.Thread(target=kill_the_first_child)
    killer.start()
    wanted = r"process \d of 2 was ended by SIGKILL \(out of memory\?\), so the others were ended too"
    with pytest.raises(SevilaError, match=wanted):
        start_processes(2, nothing, (bytes(1 << 20),), "train")  # more than a pipe holds
    killer.join()


class ErrorOfALibrary(Exception):
    """One of the many that are written by pickle, and not read."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} {where}")


def say_something() -> str:
    logging.getLogger("h5py").warning("odd", extra={"error": ErrorOfALibrary("no", "here")})
    logging.getLogger("sevila").info("step %d", 1)
    logging.getLogger("torch").info("nobody asked")
    warnings.warn("deprecated", stacklevel=1)
    return "said"


def test_what_another_process_logs_is_logged_here(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sevila"):
        assert run_in_subprocess(say_something) == "said"
        start_processes(2, say_something, (), "train")
    steps = [message for message in caplog.messages if message == "step 1"]
    assert len(steps) == 2  # of the one process, and of the first of two
    for told, n_told in (("UserWarning: deprecated", 3), ("a log record of another process cannot be shown", 3)):
        assert sum(told in message for message in caplog.messages) == n_told
    assert len(caplog.messages) == 8
