"""Full disks, and stores that become read-only, inaccessible or unmounted during a run, on real small file systems."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.faults.judging import stage_in_progress
from tests.faults.world import Trial

ROOM_BYTES = 64 << 20
NOBODY = 65534


def mount_problem() -> str:
    """Return why file systems cannot be mounted here; "" if they can."""
    if os.getuid() != 0:
        return "only root may mount file systems"
    try:
        with mounted(Path("/tmp"), "tmpfs", f"size={1 << 20}", probe=True):
            return ""
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no file system can be mounted here: {error}"


@contextmanager
def mounted(folder: Path, kind: str, options: str, probe: bool = False) -> Iterator[Path]:
    """Mount a new file system (tmpfs, or ext4 in a file) below `folder`, yield its path and unmount it at the end."""
    place = folder / ("sevila_probe" if probe else "mounted")
    place.mkdir(exist_ok=True)
    # A killed campaign may have left a mount.
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
            if status:  # else there was enough room
                trial.count_fault(f"{kind}, in {stage_in_progress(trial.store)}")
                trial.check_clear_error(status, ("bytes free", "No space left"))
                if kind == "ext4":
                    filler.unlink()
                else:
                    _do("mount", "-o", f"remount,size={ROOM_BYTES},nr_inodes=0", str(place))
                trial.end()
            trial.reset()


def denied(trial: Trial) -> None:
    """Make the store read-only, inaccessible or unmounted at a random moment of a run; undo this and run again."""
    faults = {"read-only": _read_only, "forbidden": forbidden, "unmounted": _unmounted}
    while not trial.is_done:
        faults[trial.rng.choice(sorted(faults))](trial)
        trial.store = trial.beside
        trial.reset()


def _read_only(trial: Trial) -> None:
    with mounted(trial.folder, "tmpfs", f"size={ROOM_BYTES}") as place:
        trial.store = place / "store"
        trial.store.mkdir()
        victim = trial.start()
        status = victim.wait(trial.rng.uniform(0, trial.world.seconds))
        change = ["mount", "-o", "remount,ro", str(place)]
        while status is None and subprocess.run(change, capture_output=True).returncode:  # busy while a file is written
            status = victim.wait(0.001)
        status = victim.finish() if status is None else status
        if status:
            trial.count_fault(f"read-only, in {stage_in_progress(trial.store)}")
            trial.check_clear_error(status, ("Read-only file system",))
        _do("mount", "-o", "remount,rw", str(place))
        trial.end()


def forbidden(trial: Trial) -> None:
    """Change the owner of the store to root at a random moment of another user's run; then run again as root."""
    trial.store.mkdir()
    os.chown(trial.store, NOBODY, NOBODY)
    victim = trial.start(user=NOBODY)
    status = victim.wait(trial.rng.uniform(0, trial.world.seconds))
    for path in (trial.store, *trial.store.rglob("*")):
        with suppress(FileNotFoundError):  # the run has renamed it
            os.chown(path, 0, 0)
    status = victim.finish() if status is None else status
    if status:
        trial.count_fault(f"forbidden, in {stage_in_progress(trial.store)}")
        trial.check_clear_error(status, ("Permission denied", "Operation not permitted"))
    trial.end()


def _unmounted(trial: Trial) -> None:
    kept, place = trial.folder / "kept", trial.folder / "place"
    for path in (kept, place):
        path.mkdir()
    trial.store = place / "store"
    _do("chattr", "+i", str(place))  # nothing can be written to the mount point itself
    _do("mount", "--bind", str(kept), str(place))
    try:
        victim = trial.start()
        status = victim.wait(trial.rng.uniform(0, trial.world.seconds))
        _do("umount", "-l", str(place))
        status = victim.finish() if status is None else status
        _do("mount", "--bind", str(kept), str(place))
        if status:
            trial.count_fault(f"unmounted, in {stage_in_progress(trial.store)}")
            trial.check_clear_error(status)
        trial.end()
    finally:
        subprocess.run(["umount", "-l", str(place)], capture_output=True)
        _do("chattr", "-i", str(place))
        for path in (kept, place):
            shutil.rmtree(path)


def _fill(filler: Path, left_bytes: int) -> None:
    """Write a file that leaves `left_bytes` free on its file system."""
    status = os.statvfs(filler.parent)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, status.f_bavail * status.f_frsize - left_bytes - (64 << 10)))


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
