"""The child processes of `sevila up`: Prefect's server and workers, which are stopped with it."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]  # has prefect.yaml and flows.py
LOG_VARIABLE = "SEVILA_UP_LOG"  # has the path of their log file
PRIVATE = 0o077  # a umask
GRACE_SECONDS = 60.0  # from SIGTERM to SIGKILL; Prefect's workers give their runs 30
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def start(environment: Mapping[str, str], *arguments: str, umask: int = -1) -> subprocess.Popen[bytes]:
    """Start a `prefect` command in a new session, so that Ctrl-C in the terminal reaches only the parent process.

    Args:
        umask: umask of the process; -1: that of the parent.
    """
    command = [sys.executable, "-m", "prefect", *arguments]
    with open(environment[LOG_VARIABLE], "ab") as log_file:
        return subprocess.Popen(
            command,
            cwd=HOME,
            env=environment,
            stdout=log_file,
            stderr=log_file,
            start_new_session=True,
            preexec_fn=_end_with_parent,
            umask=umask,
        )


def _end_with_parent() -> None:
    """Have the kernel terminate this process when its parent is killed (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """Terminate processes, and kill those still running after `GRACE_SECONDS`."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
