"""Hostile HDF5 files that refer to other files, claim huge arrays or hold unexpected types."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache.errors import CorruptArtifactError
from cache.hdf5 import array, open_arrays
from cache.untrusted import path_inside


def virtual_dataset(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((2,), "uint8")
    layout[:] = h5py.VirtualSource("other.h5", "data", (2,))
    file.create_virtual_dataset("data", layout)


def soft_link(file: h5py.File) -> None:
    file["other/data"] = np.zeros(2, "uint8")
    file["data"] = h5py.SoftLink("/other/data")


HOSTILE: dict[str, Callable[[h5py.File], object]] = {
    "ExternalLink": lambda file: file.__setitem__("data", h5py.ExternalLink("other.h5", "data")),
    "SoftLink": soft_link,
    "other files": lambda file: file.create_dataset("data", (2,), "uint8", external=[("/etc/passwd", 0, 2)]),
    "lies in other files": virtual_dataset,
    "holds object": lambda file: file.create_dataset("data", data=["a"], dtype=h5py.string_dtype()),
    "holds int8": lambda file: file.create_dataset("data", (2,), "int8"),
    "holds >f4": lambda file: file.create_dataset("data", (2,), ">f4"),
    "is a Group": lambda file: file.create_group("data"),
    "is filtered": lambda file: file.create_dataset("data", data=np.zeros(9, "uint8"), chunks=(3,), compression="gzip"),
    r"needs 1\d+ bytes, but the file holds 0": lambda file: file.create_dataset(
        "data", (10**6, 10**6), "u1", chunks=(1, 9)
    ),
    "cannot be read|reached by": lambda file: None,
}


@pytest.mark.parametrize("message", HOSTILE)
def test_a_dataset_that_is_not_plain_numeric_data_is_refused(message: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = np.zeros(2, "uint8")
    with h5py.File(tmp_path / "hostile.h5", "w") as file:
        HOSTILE[message](file)
    with open_arrays(tmp_path / "hostile.h5") as file, pytest.raises(CorruptArtifactError, match=message) as caught:
        array(file, "data", ("uint8", "float32"))
    assert "hostile.h5" in str(caught.value)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "", "a//b", "out/secret", "a\0b"])
def test_a_path_that_leads_out_of_a_folder_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "artifact" / "out").symlink_to(tmp_path)
    with pytest.raises(CorruptArtifactError, match="leads out"):
        path_inside(tmp_path / "artifact", name)
