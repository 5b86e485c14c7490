"""What a full disk looks like through libraries that do not say so."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cache.files import published
from cache.notes import write_note
from cache.tables import Schema, write_columns

MEGABYTE = torch.from_numpy(np.random.default_rng(0).standard_normal(1 << 17))


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a file system can be mounted by root only")
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
def test_full_disk_is_an_error_of_the_system_that_names_the_place_and_leaves_nothing(writer: str, full: Path) -> None:
    with pytest.raises(OSError) as caught:
        WRITERS[writer](full)
    assert caught.value.errno == errno.ENOSPC and str(full) in str(caught.value.filename)
    assert os.listdir(full) == []


def test_error_of_another_kind_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), published(tmp_path / "x"):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []
