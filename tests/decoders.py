"""Finds decoder processes and their open files."""

from __future__ import annotations

import os
from pathlib import Path


def workers_of(parent_id: int) -> set[int]:
    workers = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # the process has just ended
        if any(b"decode_worker import main" in word for word in words) and parent == parent_id:
            workers.add(int(entry.name))
    return workers


def readers_of(path: Path) -> set[int]:
    """Return the decoder processes of this process that have a file or folder open."""
    return {worker for worker in workers_of(os.getpid()) if is_open(worker, path)}


def is_open(process_id: int, path: Path) -> bool:
    try:
        return any(entry.samefile(path) for entry in Path(f"/proc/{process_id}/fd").iterdir() if entry.exists())
    except OSError:  # the process has just ended or closed a file
        return False


def is_running(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
