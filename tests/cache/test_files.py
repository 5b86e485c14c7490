"""Full disks, including those that a library hides, and file systems without fsync for folders."""

import errno
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cache.files import published, sync, write_atomically
from cache.notes import write_note
from cache.tables import Schema, write_columns

MEGABYTE = torch.from_numpy(np.random.default_rng(0).standard_normal(1 << 17))


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root can mount a file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def publish(path: Path, write: Callable[[Path], object]) -> None:
    with published(path) as part:
        write(part)


WRITERS: dict[str, Callable[[Path], object]] = {
    "torch": lambda disk: publish(disk / "x", lambda part: torch.save(MEGABYTE, part)),
    "safetensors": lambda disk: publish(disk / "x", lambda part: save_file({"a": MEGABYTE}, part)),
    "parquet": lambda disk: write_columns(disk / "x", Schema(1, a="float64"), {"a": MEGABYTE.numpy()}),
    "json": lambda disk: write_note(disk / "x", {"a": "x" * (1 << 20)}),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_raises_an_oserror_with_the_path_and_leaves_no_file(writer: str, full_disk: Path) -> None:
    with pytest.raises(OSError) as caught:
        WRITERS[writer](full_disk)
    assert caught.value.errno == errno.ENOSPC and str(full_disk) in str(caught.value.filename)
    assert os.listdir(full_disk) == []


def test_other_errors_are_passed_on_unchanged(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), published(tmp_path / "x"):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_failed_folder_sync_is_tolerated_and_a_failed_file_sync_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """CIFS and FUSE file systems fail in this way."""
    fsync = os.fsync

    def fsync_files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync_files_only)
    write_atomically(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"

    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=os.strerror(code)):
        write_atomically(tmp_path / "other", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_during_a_folder_sync_raises_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        sync(tmp_path)
