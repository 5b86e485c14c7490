"""The processes of `sevila up`: Prefect's server and workers, which end with it."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]  # of prefect.yaml and flows.py
LOG_VARIABLE = "SEVILA_UP_LOG"  # names the file that they write to
PRIVATE = 0o077  # a umask
GRACE_SECONDS = 60.0  # of a worker, to end its runs; Prefect gives these 30
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def start(environment: Mapping[str, str], *arguments: str, umask: int = -1) -> subprocess.Popen[bytes]:
    """Start a `prefect` command in a session of its own: a Ctrl-C in the terminal reaches it only through us.

    Args:
        umask: of the files that it makes, if not our own.
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
    """Have the new process ended when its parent is killed: nobody else would stop it. Only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """End processes: asked to first, killed after `GRACE_SECONDS`."""
    for process in processes:
        process.terminate()
    give_up = time.monotonic() + GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, give_up - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
