"""Reading untrusted HDF5 files: no link is followed, and only arrays stored as plain bytes in the file itself are read."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.errors import CorruptArtifactError, repair_hint
from cache.files import open_file
from cache.lazy import Lazy

if TYPE_CHECKING:
    import h5py
else:
    h5py = Lazy("h5py")

MAX_TEXT_BYTES = 1000


def open_arrays(path: Path) -> h5py.File:
    """Open an HDF5 file for reading; raises `CorruptArtifactError` if it is no HDF5 file, or a link."""
    if path.is_symlink():
        raise CorruptArtifactError(f"{path}: is a link, which may lead anywhere; it is not read; {repair_hint(path)}")
    try:
        open_file(path).close()  # h5py would block on a pipe
        # No locking: the file never changes, and may be on a read-only mount. No chunk cache: it would keep 1 MB per file.
        return h5py.File(path, "r", locking=False, rdcc_nbytes=0)
    except OSError as error:
        raise CorruptArtifactError(f"{path}: not readable as HDF5: {error}; {repair_hint(path)}") from error


def array(file: h5py.File, name: str, dtypes: Collection[str]) -> h5py.Dataset:
    """Return an array that is stored uncompressed in the file itself.

    Raises:
        CorruptArtifactError: no array has this name, it is reached by a link or stored in other files, has none of these
            dtypes, is filtered, or claims more bytes than the file has.
    """
    path = Path(file.filename)
    try:
        problem, dataset = _array(file, name, dtypes)
    except (KeyError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise CorruptArtifactError(f"{path}: {name} cannot be read: {error}; {repair_hint(path)}") from error
    if problem:
        raise CorruptArtifactError(
            f"{path}: {name} {problem}; expected plain numbers in this file; {repair_hint(path)}"
        )
    return dataset


def short_text(file: h5py.File, name: str) -> str:
    """Return an ASCII text attribute of up to `MAX_TEXT_BYTES`; raises `CorruptArtifactError` if it is missing or not such."""
    path = Path(file.filename)
    try:
        attribute = h5py.h5a.open(file.id, name.encode())
        if attribute.shape == () and attribute.dtype.kind == "S" and attribute.get_storage_size() <= MAX_TEXT_BYTES:
            return bytes(file.attrs[name]).decode("ascii")
        problem = f"holds {attribute.dtype} of shape {attribute.shape}, expected a short text"
    except (KeyError, OSError, ValueError, TypeError, RuntimeError) as error:
        problem = f"cannot be read: {error}"
    raise CorruptArtifactError(f"{path}: attribute {name} {problem}; {repair_hint(path)}")


def _array(file: h5py.File, name: str, dtypes: Collection[str]) -> tuple[str, h5py.Dataset]:
    node: Any = file
    for part in name.split("/"):
        link = node.get(part, getlink=True)
        if not isinstance(link, h5py.HardLink):
            return f"is reached by a {type(link).__name__}", None
        node = node[part]
    if not isinstance(node, h5py.Dataset):
        return f"is a {type(node).__name__}", None
    properties = node.id.get_create_plist()
    if node.external or node.is_virtual:
        return "lies in other files", None
    if node.dtype.str not in {np.dtype(dtype).str for dtype in dtypes} or node.dtype.metadata:
        return f"holds {node.dtype}", None
    if properties.get_nfilters():
        return "is filtered", None
    stored_bytes = min(node.id.get_storage_size(), Path(file.filename).stat().st_size)
    if node.nbytes > stored_bytes:  # HDF5 would fill missing chunks with zeros
        return f"of shape {node.shape} needs {node.nbytes} bytes, but the file holds {stored_bytes} of them", None
    return "", node
