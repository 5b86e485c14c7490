"""Runs of the command that may be killed: forked from a process that has imported everything, so that one costs no start-up.

A victim counts what it publishes in a file beside its store, appended to by the process itself: a note of a shard, a part of the
pool or an artifact that stands there twice was built twice.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KILLED = -signal.SIGKILL
LIMIT_SECONDS = 300.0
# From linux/prctl.h and linux/capability.h.
PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 4, 8, 47, 2
CAP_DAC_READ_SEARCH, CAPABILITY_VERSION_3 = 2, 0x20080522
# What changes the disk; a victim can be killed before the n-th of these.
OPERATIONS = ("replace", "fsync", "rename", "mkdir", "unlink")
_done = 0  # of them, in this process


@dataclass
class Victim:
    """A running process of ours."""

    pid: int

    def ended(self, within_seconds: float = LIMIT_SECONDS) -> int | None:
        """Return the exit status (negative: the signal's number) as soon as there is one, or None after so many seconds."""
        deadline = time.monotonic() + within_seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.002)

    def kill(self) -> int:
        """Send SIGKILL and return the exit status; it is another than `KILLED` if the process was quicker."""
        os.kill(self.pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def finish(self) -> int:
        """Return the exit status; a process that does not end is killed, which is then its status."""
        status = self.ended()
        return self.kill() if status is None else status

    def children(self, words: str) -> list[int]:
        """Return the processes below this one whose command line holds `words`."""
        found, parents = [], {self.pid}
        for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda folder: int(folder.name)):
            with suppress(OSError, ValueError):
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if parent in parents:
                    parents.add(int(folder.name))
                    if words in (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                        found.append(int(folder.name))
        return found


def fork(work: Callable[[], object], store: Path, beside: Path, kill_before: int = 0) -> Victim:
    """Fork a process that calls `work`; what that returns, or 70 after a traceback, is its exit status.

    Args:
        beside: its output, and what it publishes in `store`, are noted beside this path.
        kill_before: it kills itself before its n-th operation that changes the disk; 0: never.
    """
    pid = os.fork()
    if pid:
        return Victim(pid)
    status = 70
    try:
        with _beside(beside, "log").open("ab", buffering=0) as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        os.chdir("/")
        _watch(store, _beside(beside, "published"), kill_before)
        status = int(work() or 0)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
            _beside(beside, "operations").write_text(str(_done))
        os._exit(status)


def command(arguments: Sequence[str], user: int = 0, environment: Mapping[str, str] | None = None) -> Callable[[], int]:
    """Return what runs `sevila ARGUMENTS`, as another user and with more variables if they are given."""

    def work() -> int:
        from cli import main

        os.environ.update(environment or {})
        if user:
            _become(user)
        return main(arguments)

    return work


def _become(user: int) -> None:
    """Make this process and all that it starts another user's, who may write no more than any other but read everything.

    Else it could not even start its decoders where the interpreter lies in root's home, and would fail before any fault.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def do(name: str, *arguments: Any) -> None:
        if getattr(libc, name)(*arguments):
            raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")

    do("prctl", PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    only = 1 << CAP_DAC_READ_SEARCH
    do(
        "capset", header, (ctypes.c_uint32 * 6)(only, only, only)
    )  # effective, permitted, inheritable; then the higher bits
    do("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH, 0, 0)
    do("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)  # its own /proc/self stays its own


def publications(beside: Path) -> list[str]:
    """Return what the processes have published, by name, as often as they did."""
    path = _beside(beside, "published")
    return path.read_text().splitlines() if path.exists() else []


def n_operations(beside: Path) -> int:
    """Return how many operations that change the disk the last command that ended by itself has made."""
    return int(_beside(beside, "operations").read_text())


def last_words(beside: Path, n_characters: int = 300) -> str:
    """Return the end of what the processes have printed."""
    log = _beside(beside, "log")
    return log.read_text(errors="replace")[-n_characters:] if log.exists() else ""


def forget(beside: Path) -> None:
    """Remove what processes have noted beside a path."""
    for what in ("log", "published", "operations"):
        _beside(beside, what).unlink(missing_ok=True)


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}.{what}")


def _watch(store: Path, published: Path, kill_before: int) -> None:
    counter = os.open(published, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def watched(operation: Callable) -> Callable:
        def call(*arguments: Any, **options: Any) -> Any:
            global _done
            _done += 1
            if _done == kill_before:
                os.kill(os.getpid(), signal.SIGKILL)
            result = operation(*arguments, **options)
            if operation.__name__ in ("replace", "rename") and _is_finished(store, Path(arguments[1])):
                os.write(counter, f"{Path(arguments[1]).relative_to(store)}\n".encode())
            return result

        return call

    for name in OPERATIONS:
        setattr(os, name, watched(getattr(os, name)))


def _is_finished(store: Path, path: Path) -> bool:
    """Whether something counts as finished from now on, as this path is there: a shard, a part of the pool, an artifact."""
    if not path.is_relative_to(store):
        return False
    parts = path.relative_to(store).parts
    is_note = path.suffix == ".json"
    is_shard = parts[0] == "partial" and parts[2:3] == ("progress",) and len(parts) == 4 and path.stem.isdecimal()
    return (parts[0] == "artifacts" and len(parts) == 2) or (is_note and (is_shard or parts[0] == "pool"))
