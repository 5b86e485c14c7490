"""A full disk, and a store that turns read-only, forbidden or away while a run writes to it: for real, on small file systems."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.faults.judging import being_made
from tests.faults.victims import last_words
from tests.faults.world import Trial

ROOM_BYTES = 64 << 20
NOBODY = 65534


def why_not() -> str:
    """Return why file systems cannot be mounted here, or nothing."""
    if os.getuid() != 0:
        return "only root may mount file systems"
    try:
        with mounted(Path("/tmp"), "tmpfs", f"size={1 << 20}", probe=True):
            return ""
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no file system can be mounted here: {error}"


@contextmanager
def mounted(folder: Path, kind: str, options: str, probe: bool = False) -> Iterator[Path]:
    """Mount a file system of its own (tmpfs, or ext4 in a file) below `folder` and yield where; unmount it at the end."""
    place = folder / ("sevila_probe" if probe else "mounted")
    place.mkdir(exist_ok=True)
    # What a campaign that was killed has left.
    subprocess.run(("umount", "-q", "-l", str(place)), check=False, capture_output=True)
    source = "tmpfs"
    if kind == "ext4":
        source = str(folder / "disk")
        with open(source, "wb") as file:
            file.truncate(ROOM_BYTES)
        _do("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", source)
        options = "loop"
    _do("mount", "-t", kind, "-o", options, source, str(place))
    try:
        yield place
    finally:
        _do("umount", "-l", str(place))
        place.rmdir()


def full(trial: Trial) -> None:
    """Run on a file system with too little room, or too few inodes; make room, and run the same command again."""
    while not trial.is_done:
        kind, share = trial.rng.choice(("tmpfs", "tmpfs, inodes", "ext4")), trial.rng.uniform(0.02, 0.95)
        left_bytes = int(share * sum(-(-size // 4096) for size in trial.world.sizes)) * 4096
        options = f"size={left_bytes}"
        if kind == "tmpfs, inodes":
            options = f"size={ROOM_BYTES},nr_inodes={int(share * len(trial.world.sizes)) + 8}"
        with mounted(trial.folder, kind.split(",")[0], options) as place:
            trial.store, filler = place / "store", place / "filler"
            trial.store.mkdir()
            if kind == "ext4":
                _fill(filler, left_bytes)
            status = trial.start().finish()
            if status:  # else it was enough after all
                trial.happened(f"{kind}, in {being_made(trial.store)}")
                _check_told(trial, status, ("bytes free", "No space left"))
                if kind == "ext4":
                    filler.unlink()
                else:
                    _do("mount", "-o", f"remount,size={ROOM_BYTES},nr_inodes=0", str(place))
                trial.end()
            trial.begin_anew()


def denied(trial: Trial) -> None:
    """Make the store read-only, forbid it, or take it away at a random moment of a run; undo it, and run again."""
    ways = {"read-only": _read_only, "forbidden": forbidden, "unmounted": _unmounted}
    while not trial.is_done:
        ways[trial.rng.choice(sorted(ways))](trial)
        trial.store = trial.beside
        trial.begin_anew()


def _read_only(trial: Trial) -> None:
    with mounted(trial.folder, "tmpfs", f"size={ROOM_BYTES}") as place:
        trial.store = place / "store"
        trial.store.mkdir()
        victim = trial.start()
        status = victim.ended(trial.rng.uniform(0, trial.world.seconds))
        change = ["mount", "-o", "remount,ro", str(place)]
        while (
            status is None and subprocess.run(change, capture_output=True).returncode
        ):  # busy: a file is being written
            status = victim.ended(0.001)
        status = victim.finish() if status is None else status
        if status:
            trial.happened(f"read-only, in {being_made(trial.store)}")
            _check_told(trial, status, ("Read-only file system",))
        _do("mount", "-o", "remount,rw", str(place))
        trial.end()


def forbidden(trial: Trial) -> None:
    """Give the store to root at a random moment of another user's run; undo it, and run again as root."""
    trial.store.mkdir()
    os.chown(trial.store, NOBODY, NOBODY)
    victim = trial.start(user=NOBODY)
    status = victim.ended(trial.rng.uniform(0, trial.world.seconds))
    for path in (trial.store, *trial.store.rglob("*")):
        with suppress(FileNotFoundError):  # renamed meanwhile
            os.chown(path, 0, 0)
    status = victim.finish() if status is None else status
    if status:
        trial.happened(f"forbidden, in {being_made(trial.store)}")
        _check_told(trial, status, ("Permission denied", "Operation not permitted"))
    trial.end()


def _unmounted(trial: Trial) -> None:
    kept, place = trial.folder / "kept", trial.folder / "place"
    for path in (kept, place):
        path.mkdir()
    trial.store = place / "store"
    _do("chattr", "+i", str(place))  # nothing can be written below the mount, as is usual for such a place
    _do("mount", "--bind", str(kept), str(place))
    try:
        victim = trial.start()
        status = victim.ended(trial.rng.uniform(0, trial.world.seconds))
        _do("umount", "-l", str(place))
        status = victim.finish() if status is None else status
        _do("mount", "--bind", str(kept), str(place))
        if status:
            trial.happened(f"unmounted, in {being_made(trial.store)}")
            _check_told(trial, status, ("",))
        trial.end()
    finally:
        subprocess.run(["umount", "-l", str(place)], capture_output=True)
        _do("chattr", "-i", str(place))
        for path in (kept, place):
            shutil.rmtree(path)


def _check_told(trial: Trial, status: int, words: tuple[str, ...]) -> None:
    """A fault of the machine is told by one clear line, and by the status."""
    told = last_words(trial.beside, 100_000)
    lines = [line for line in told.splitlines() if line.startswith("error: ")]
    if status != 1 or "Traceback" in told or not any(word in line for line in lines for word in words):
        trial.fail("wrong", f"no clear error but status {status}: {told[-800:]}")


def _fill(filler: Path, left_bytes: int) -> None:
    """Write a file that leaves so many bytes of its file system."""
    status = os.statvfs(filler.parent)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, status.f_bavail * status.f_frsize - left_bytes - (64 << 10)))


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
