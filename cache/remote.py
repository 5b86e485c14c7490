"""Remotes, through which stores are shared: a folder, or an address that fsspec supports (s3, gs, hf, ssh).

<remote>/sevila.json               marks the place as a remote; written first
<remote>/blobs/<aa>/<sha256>       the bytes of files and arrays, named by their SHA-256
<remote>/artifacts/<id>.json       the manifest of an artifact (cache/manifest.py), written after all its blobs
<remote>/names/<name>.json         a named run, written after all its artifacts

A blob never changes, and a file gets its name only once it is complete.
"""

from __future__ import annotations

import json
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cache.errors import MachineError, SevilaError, StoreError
from cache.files import being_written, open_file, publish, read_whole, refuse_link
from cache.in_use import OWN_NAMES
from cache.lazy import Lazy
from cache.notes import NOTE_LIMIT_BYTES

if TYPE_CHECKING:
    import fsspec
else:
    fsspec = Lazy("fsspec")

ABOUT, FORMAT = "sevila.json", {"format": 1}
NO_FILE = -1  # the size of a link, or of anything else that is not a regular file
OLD_SECONDS = 86400.0  # longer than the upload of one file takes
# Protocols with atomic uploads; elsewhere a file is written under another name and renamed.
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "hf", "memory"}
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "ssh": "ssh", "sftp": "ssh"}


class Remote:
    """The files of a remote, by their names relative to it.

    Errors of its file system become a `MachineError` that names the remote; errors of this machine's disk stay `OSError`.
    """

    def __init__(self, address: str) -> None:
        """Parse an address; raises `StoreError` if no file system here supports it."""
        self.address = address
        try:
            with self._errors():
                self._files, root = fsspec.url_to_fs(str(Path(address).expanduser()) if address[:1] == "~" else address)
        except MachineError as error:
            raise StoreError(_unsupported(address, error)) from error
        protocols = {self._files.protocol} if isinstance(self._files.protocol, str) else {*self._files.protocol}
        self._is_object_store = bool(protocols & OBJECT_STORES)
        self._root = root.rstrip("/") or "/"
        self._folder = Path(root) if protocols & {"file", "local"} else None
        self.threads = 8 if self._files.async_impl else 1

    def begin_reading(self) -> None:
        """Raise `StoreError` unless this is a remote."""
        with self._errors():
            self._files.invalidate_cache()
            exists = self._files.exists(self._path(ABOUT))
        if not exists:
            raise StoreError(f"{self.address}: is not a remote; `sevila cache push` creates one")
        self._check_format()

    def begin_writing(self) -> None:
        """Mark a new place as a remote; raises `StoreError` if it holds other files."""
        with self._errors():
            self._files.invalidate_cache()
            if self._files.exists(self._path(ABOUT)):
                return self._check_format()
            self._refuse_foreign()
            self.write(ABOUT, json.dumps(FORMAT).encode())
        return None

    def _check_format(self) -> None:
        with suppress(ValueError):
            if json.loads(self.read(ABOUT)) == FORMAT:
                return
        raise StoreError(
            f"{self.address}/{ABOUT}: expected {json.dumps(FORMAT)}; it was written by another version, or not by `push`"
        )

    def _refuse_foreign(self) -> None:
        if self._folder is not None and not self._folder.parent.is_dir():
            raise StoreError(f"{self.address}: there is no folder {self._folder.parent}; is a disk missing?")
        with suppress(FileNotFoundError):
            entries = [name.rstrip("/").rpartition("/")[2] for name in self._files.ls(self._root, detail=False)]
            names = {name for name in entries if name and not name.startswith((".", f"{ABOUT}."))} - {"lost+found"}
            if names & OWN_NAMES:
                raise StoreError(f"{self.address}: is a store; read it with `--below`, or push to a place of its own")
            if names:
                first = ", ".join(sorted(names)[:3])
                raise StoreError(f"{self.address} is not a remote: it holds {first}; give a new or empty place")

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the sizes in bytes of all files in a folder, at any depth, by name; `NO_FILE` for links and the like."""
        with self._errors():
            self._files.invalidate_cache()
            root = self._path(folder)
            if self._folder is not None:
                return dict(_local_sizes(self._folder, Path(root)))
            try:
                entries = self._files.find(root, detail=True)
            except FileNotFoundError:
                return {}
        return {f"{folder}/{path.split(f'{root}/', 1)[-1]}": int(entry["size"]) for path, entry in entries.items()}

    def read(self, name: str) -> bytes:
        """Return all bytes of a small file; raises `FileNotFoundError` if there is none."""
        path = self._path(name)
        if self._folder is not None:
            return read_whole(Path(path), NOTE_LIMIT_BYTES)
        with self._errors(missing=True):
            size_bytes = self._files.info(path)["size"]
            if size_bytes > NOTE_LIMIT_BYTES:
                raise StoreError(f"{self.address}/{name}: {size_bytes} bytes, expected at most {NOTE_LIMIT_BYTES}")
            content: bytes = self._files.cat_file(path)
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a small file atomically, replacing an existing one."""
        self._write(name, lambda part: part.write_bytes(content), lambda path: self._files.pipe_file(path, content))

    def put(self, name: str, file: Path) -> None:
        """Copy a local file to the remote, atomically."""
        self._write(name, lambda part: _copy(file, part), lambda path: self._files.put_file(str(file), path))

    def get(self, name: str, file: Path) -> None:
        """Copy a file of the remote into an existing local file."""
        path = self._path(name)
        if self._folder is not None:
            return _copy(Path(path), file)
        with self._errors():
            self._files.get_file(path, str(file))
        return None

    def _write(self, name: str, locally: Callable[[Path], object], remotely: Callable[[str], object]) -> None:
        path = self._path(name)
        part_path = f"{path}.{uuid.uuid4().hex}.part"  # process ids of several containers may be equal
        if self._folder is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with being_written(Path(part_path)) as part:
                locally(part)
            publish(part, Path(path))
            return
        with self._errors():
            if self._is_object_store:
                remotely(path)
                return
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            try:
                remotely(part_path)
                self._files.mv(part_path, path)
            except BaseException:
                with suppress(Exception):
                    self._files.rm_file(part_path)
                raise

    def _path(self, name: str) -> str:
        path = f"{self._root.rstrip('/')}/{name}"
        if self._folder is not None:
            refuse_link(Path(path), self._folder)
        return path

    @contextmanager
    def _errors(self, missing: bool = False) -> Iterator[None]:
        """Convert errors of the file system to `MachineError`; `missing`: let `FileNotFoundError` through."""
        try:
            yield
        except SevilaError:
            raise
        except Exception as error:  # file systems raise their own errors, and those of their libraries
            if (missing and isinstance(error, FileNotFoundError)) or (isinstance(error, OSError) and error.filename):
                raise
            message = " ".join(str(error).split()) or type(error).__name__
            raise MachineError(
                f"{self.address}: {message}; remove the cause and run the same command again: transferred files are kept"
            ) from error


def _unsupported(address: str, error: MachineError) -> str:
    cause = error.__cause__
    protocol = address.split("://")[0]
    if isinstance(cause, ImportError) and protocol in EXTRAS:
        return f"{address}: {cause}: pip install 'sevila-pipeline[{EXTRAS[protocol]}]'"
    if isinstance(cause, ImportError):
        return f"{address}: {cause} (with pip, beside sevila-pipeline)"  # fsspec names the package of each address
    if isinstance(cause, ValueError):
        return f"{address}: {cause}; expected a folder, or an address such as s3://BUCKET/PATH, gs://, hf:// or ssh://HOST/PATH"
    return str(error)


def _local_sizes(root: Path, folder: Path) -> Iterator[tuple[str, int]]:
    """Yield names and sizes of files; parts that a push left more than `OLD_SECONDS` ago are removed."""
    for path in sorted(folder.rglob("*")):
        with suppress(FileNotFoundError):
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode):
                continue
            if path.suffix != ".part":
                yield path.relative_to(root).as_posix(), status.st_size if stat.S_ISREG(status.st_mode) else NO_FILE
            elif status.st_mtime < time.time() - OLD_SECONDS:
                path.unlink()


def _copy(source: Path, target: Path) -> None:
    with open_file(source) as reading, target.open("wb") as writing:
        shutil.copyfileobj(reading, writing)
