"""A process that waits for a lock logs this, and continues when the lock is released."""

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
    """Collects messages and calls `release` at the first that reports waiting."""

    def __init__(self, release: Callable[[], None]) -> None:
        super().__init__()
        self.messages: list[str] = []
        self._release = release

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        if "waiting for" in record.getMessage():
            self._release()


@contextmanager
def held_until_logged(root: Path, *call: str) -> Iterator[list[str]]:
    """Hold a lock in another process until this one logs that it waits, or for a minute; yield the logged messages."""
    command = [sys.executable, "-c", HOLDER, str(root), *call]
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
def log_immediately(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LOG_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(locks, "_logged_at", {})


def test_waiting_for_a_lock_of_another_process_logs_the_artifact_once(tmp_path: Path) -> None:
    name = "answer_questions-v4-8dcabc29/build"
    with held_until_logged(tmp_path, "lock", name) as messages, Store(tmp_path).lock(name):
        pass
    (line,) = messages
    assert f"waiting for another process that works on {name}" in line


def test_waiting_for_a_video_of_another_process_is_logged(tmp_path: Path) -> None:
    built: list[str] = []

    def work(keys: Iterator[str]) -> Iterator[str]:
        for key in keys:
            built.append(key)
            yield key

    with held_until_logged(tmp_path, "lock", f"pool/{SPACE}/{KEY}") as messages:
        Pool(Store(tmp_path), SPACE).make([KEY, "other"], built.__contains__, work)
    assert built == ["other", KEY]
    assert len(messages) == 1 and f"pool/{SPACE}/{KEY}" in messages[0]


def test_waiting_for_garbage_collection_is_logged(tmp_path: Path) -> None:
    with held_until_logged(tmp_path, "alone") as messages, Store(tmp_path).in_use():
        pass
    (line,) = messages
    assert str(tmp_path) in line and "waiting for `sevila cache gc --delete`" in line


def test_nothing_is_logged_without_a_long_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "LOG_AFTER_SECONDS", 5.0)
    with caplog.at_level(logging.INFO, "sevila"), Store(tmp_path).lock("a/build"), Store(tmp_path).lock("b/build"):
        pass
    assert not caplog.records
