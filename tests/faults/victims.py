"""Processes that run the command and may be killed, forked from one that has imported everything to save start-up time.

Each process appends the names of what it publishes to a file beside its store: a shard, pool part or artifact that is listed
twice was built twice.
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
# Operations that change the disk; a victim can be killed before the n-th.
OPERATIONS = ("replace", "fsync", "rename", "mkdir", "unlink")
_n_done = 0  # in this process


@dataclass
class Victim:
    """A running process of a trial."""

    pid: int

    def wait(self, within_seconds: float = LIMIT_SECONDS) -> int | None:
        """Wait for the end and return the exit status (negative: signal number); None if `within_seconds` pass before."""
        deadline = time.monotonic() + within_seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.002)

    def kill(self) -> int:
        """Send SIGKILL and return the exit status; it differs from `KILLED` if the process had already ended."""
        os.kill(self.pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def finish(self) -> int:
        """Wait for the end and return the exit status; kill a process that does not end in time."""
        status = self.wait()
        return self.kill() if status is None else status

    def children(self, words: str) -> list[int]:
        """Return the descendants of this process whose command line contains `words`."""
        pids, parents = [], {self.pid}
        for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda folder: int(folder.name)):
            with suppress(OSError, ValueError):
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if parent in parents:
                    parents.add(int(folder.name))
                    if words in (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                        pids.append(int(folder.name))
        return pids


def fork(work: Callable[[], object], store: Path, beside: Path, kill_before: int = 0) -> Victim:
    """Fork a process that calls `work`; its exit status is the returned value, or 70 after a traceback.

    Args:
        beside: path beside which its output and its publications in `store` are noted.
        kill_before: number of the disk operation before which it kills itself; 0: never.
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
            _beside(beside, "operations").write_text(str(_n_done))
        os._exit(status)


def command(arguments: Sequence[str], user: int = 0, environment: Mapping[str, str] | None = None) -> Callable[[], int]:
    """Return a function that runs `sevila ARGUMENTS`, as another user and with more variables if given."""

    def work() -> int:
        from cli import main

        os.environ.update(environment or {})
        if user:
            _become(user)
        return main(arguments)

    return work


def _become(user: int) -> None:
    """Change the user of this process and its children to one without special rights, except to read everything.

    Without that right it could not start decoders if the interpreter lies in root's home.
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
    sets = (ctypes.c_uint32 * 6)(only, only, only)  # effective, permitted, inheritable; then the higher bits
    do("capset", header, sets)
    do("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH, 0, 0)
    do("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)  # its own /proc/self stays its own


def publications(beside: Path) -> list[str]:
    """Return the name of every publication; one that was built twice occurs twice."""
    path = _beside(beside, "published")
    return path.read_text().splitlines() if path.exists() else []


def n_operations(beside: Path) -> int:
    """Return the number of disk operations of the last command that was not killed."""
    return int(_beside(beside, "operations").read_text())


def output_tail(beside: Path, n_characters: int = 300) -> str:
    """Return the last characters of the output of the processes."""
    log = _beside(beside, "log")
    return log.read_text(errors="replace")[-n_characters:] if log.exists() else ""


def remove_notes(beside: Path) -> None:
    """Remove the notes of the processes beside a path."""
    for what in ("log", "published", "operations"):
        _beside(beside, what).unlink(missing_ok=True)


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}.{what}")


def _watch(store: Path, published: Path, kill_before: int) -> None:
    counter = os.open(published, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def watched(operation: Callable) -> Callable:
        def call(*arguments: Any, **options: Any) -> Any:
            global _n_done
            _n_done += 1
            if _n_done == kill_before:
                os.kill(os.getpid(), signal.SIGKILL)
            result = operation(*arguments, **options)
            if operation.__name__ in ("replace", "rename") and _is_finished(store, Path(arguments[1])):
                os.write(counter, f"{Path(arguments[1]).relative_to(store)}\n".encode())
            return result

        return call

    for name in OPERATIONS:
        setattr(os, name, watched(getattr(os, name)))


def _is_finished(store: Path, path: Path) -> bool:
    """Whether the existence of this path marks a shard, pool part or artifact as finished."""
    if not path.is_relative_to(store):
        return False
    parts = path.relative_to(store).parts
    is_note = path.suffix == ".json"
    is_shard = parts[0] == "partial" and parts[2:3] == ("progress",) and len(parts) == 4 and path.stem.isdecimal()
    return (parts[0] == "artifacts" and len(parts) == 2) or (is_note and (is_shard or parts[0] == "pool"))
