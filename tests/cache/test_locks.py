"""Who waits for what another process holds says so, and goes on when it is free."""

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cache import locks
from cache.pool import Pool
from cache.store import Store

SPACE, KEY = "extract-v1-0123", "00aa11bb22cc33dd44ee"
HOLDER = """
import select, sys
from pathlib import Path
from cache.store import Store
store = Store(Path(sys.argv[1]))
with getattr(store, sys.argv[2])(*sys.argv[3:]):
    print("held", flush=True)
    select.select([sys.stdin], [], [], 60)
"""


class Listener(logging.Handler):
    """Collects messages; the first that says that something is waited for ends what is waited for."""

    def __init__(self, free: Callable[[], None]) -> None:
        super().__init__()
        self.messages: list[str] = []
        self._free = free

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        if "waiting for" in record.getMessage():
            self._free()


@contextmanager
def held_until_logged(root: Path, *what: str) -> Iterator[list[str]]:
    """Have a process of its own hold a lock until this one logs that it waits, or for a minute; yield what is logged."""
    command = [sys.executable, "-c", HOLDER, str(root), *what]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        listener, log = Listener(holder.stdin.close), logging.getLogger("sevila")
        before = log.level
        log.setLevel(logging.INFO)
        log.addHandler(listener)
        try:
            yield listener.messages
        finally:
            log.removeHandler(listener)
            log.setLevel(before)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LOG_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(locks, "_logged_at", {})


def test_who_waits_for_a_lock_of_another_process_names_the_artifact_once(tmp_path: Path) -> None:
    name = "answer_questions-v4-8dcabc29/build"
    with held_until_logged(tmp_path, "lock", name) as messages, Store(tmp_path).lock(name):
        pass
    (line,) = messages
    assert f"waiting for another process that works on {name}" in line


def test_who_waits_for_a_video_that_another_process_makes_says_so(tmp_path: Path) -> None:
    made: list[str] = []

    def work(keys: Iterator[str]) -> Iterator[str]:
        for key in keys:
            made.append(key)
            yield key

    with held_until_logged(tmp_path, "lock", f"pool/{SPACE}/{KEY}") as messages:
        Pool(Store(tmp_path), SPACE).make([KEY, "other"], made.__contains__, work)
    assert made == ["other", KEY]
    assert len(messages) == 1 and f"pool/{SPACE}/{KEY}" in messages[0]


def test_a_run_that_waits_for_housekeeping_says_so(tmp_path: Path) -> None:
    with held_until_logged(tmp_path, "alone") as messages, Store(tmp_path).in_use():
        pass
    (line,) = messages
    assert str(tmp_path) in line and "waiting for `sevila cache gc --delete`" in line


def test_who_does_not_wait_and_whose_wait_is_over_soon_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "LOG_AFTER_SECONDS", 5.0)
    with caplog.at_level(logging.INFO, "sevila"), Store(tmp_path).lock("a/build"), Store(tmp_path).lock("b/build"):
        pass
    assert not caplog.records
