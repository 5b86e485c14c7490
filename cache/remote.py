"""A place that stores are shared through: a folder, or whatever fsspec reaches by an address (s3, gs, hf, ssh).

<remote>/sevila.json               what the place is; written first
<remote>/blobs/<aa>/<sha256>       the bytes of files and arrays, under the SHA-256 that they have
<remote>/artifacts/<id>.json       what makes up an artifact (cache/manifest.py), written after all its blobs
<remote>/names/<name>.json         a named run, written after all its artifacts

A blob is never changed, and no name is given before all of it is there.
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
NO_FILE = -1  # the size of a link, or whatever else is not a file
OLD_SECONDS = 86400.0  # nobody writes one file for longer
# Where an upload is seen whole or not at all; elsewhere a file gets its name once it is written.
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "hf", "memory"}
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "ssh": "ssh", "sftp": "ssh"}


class Remote:
    """The files of a place, by their names relative to it.

    Whatever its file system raises becomes a `MachineError` that names the place; errors of this machine's disk stay `OSError`.
    """

    def __init__(self, address: str) -> None:
        """Raises `StoreError` for an address that nothing here can reach, or that is a store itself."""
        self.address = address
        try:
            with self._errors():
                self._files, root = fsspec.url_to_fs(str(Path(address).expanduser()) if address[:1] == "~" else address)
        except MachineError as error:
            raise StoreError(_way_to(address, error)) from error
        protocols = {self._files.protocol} if isinstance(self._files.protocol, str) else {*self._files.protocol}
        self._is_object_store = bool(protocols & OBJECT_STORES)
        self._root = root.rstrip("/") or "/"
        self._folder = Path(root) if protocols & {"file", "local"} else None
        self.threads = 8 if self._files.async_impl else 1

    def begin_reading(self) -> None:
        """Raise `StoreError` unless something was pushed here."""
        with self._errors():
            self._files.invalidate_cache()
            is_there = self._files.exists(self._path(ABOUT))
        if not is_there:
            raise StoreError(f"{self.address}: `sevila cache push` has put nothing there")
        self._check_format()

    def begin_writing(self) -> None:
        """Say what the place is if it is new; raise `StoreError` if it holds other things."""
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
            f"{self.address}/{ABOUT}: is not {json.dumps(FORMAT)}: written by another version, or not by `push`"
        )

    def _refuse_foreign(self) -> None:
        if self._folder is not None and not self._folder.parent.is_dir():
            raise StoreError(f"{self.address}: there is no folder {self._folder.parent}; is a disk missing?")
        with suppress(FileNotFoundError):
            entries = [name.rstrip("/").rpartition("/")[2] for name in self._files.ls(self._root, detail=False)]
            names = {name for name in entries if name and not name.startswith((".", f"{ABOUT}."))} - {"lost+found"}
            if names & OWN_NAMES:
                raise StoreError(
                    f"{self.address}: is a store itself; `--below` reads one, and `push` wants a place of its own"
                )
            if names:
                first = ", ".join(sorted(names)[:3])
                raise StoreError(f"{self.address} holds other things ({first}): give a place that is new or empty")

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the sizes in bytes of all files in a folder, at any depth, by name; `NO_FILE` of links and the like."""
        with self._errors():
            self._files.invalidate_cache()
            below = self._path(folder)
            if self._folder is not None:
                return dict(_local_sizes(self._folder, Path(below)))
            try:
                entries = self._files.find(below, detail=True)
            except FileNotFoundError:
                return {}
        return {f"{folder}/{path.split(f'{below}/', 1)[-1]}": int(entry["size"]) for path, entry in entries.items()}

    def read(self, name: str) -> bytes:
        """Return all bytes of a small file; raises `FileNotFoundError` if there is none."""
        path = self._path(name)
        if self._folder is not None:
            return read_whole(Path(path), NOTE_LIMIT_BYTES)
        with self._errors(missing=True):
            size_bytes = self._files.info(path)["size"]
            if size_bytes > NOTE_LIMIT_BYTES:
                raise StoreError(f"{self.address}/{name}: {size_bytes} bytes, wanted at most {NOTE_LIMIT_BYTES}")
            content: bytes = self._files.cat_file(path)
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a small file in one piece, in place of what may be there."""
        self._place(name, lambda part: part.write_bytes(content), lambda path: self._files.pipe_file(path, content))

    def put(self, name: str, file: Path) -> None:
        """Copy a file of this machine to the place; nobody sees a part of it there."""
        self._place(name, lambda part: _copy(file, part), lambda path: self._files.put_file(str(file), path))

    def get(self, name: str, file: Path) -> None:
        """Copy a file of the place into one of this machine that is there to be written to."""
        path = self._path(name)
        if self._folder is not None:
            return _copy(Path(path), file)
        with self._errors():
            self._files.get_file(path, str(file))
        return None

    def _place(self, name: str, locally: Callable[[Path], object], remotely: Callable[[str], object]) -> None:
        path = self._path(name)
        part_path = f"{path}.{uuid.uuid4().hex}.part"  # two that push from containers may have the same process id
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
        """Name the place in whatever its file system raises; `missing`: let `FileNotFoundError` through."""
        try:
            yield
        except SevilaError:
            raise
        except Exception as error:  # every file system has errors of its own, and of the libraries it stands on
            if (missing and isinstance(error, FileNotFoundError)) or (isinstance(error, OSError) and error.filename):
                raise
            what = " ".join(str(error).split()) or type(error).__name__
            raise MachineError(
                f"{self.address}: {what}; when the cause is gone, run the same command again: what has arrived stays"
            ) from error


def _way_to(address: str, error: MachineError) -> str:
    cause = error.__cause__
    protocol = address.split("://")[0]
    if isinstance(cause, ImportError) and protocol in EXTRAS:
        return f"{address}: {cause}: pip install 'sevila-pipeline[{EXTRAS[protocol]}]'"
    if isinstance(cause, ImportError):
        return f"{address}: {cause} (with pip, beside sevila-pipeline)"  # fsspec names the package of each address
    if isinstance(cause, ValueError):
        return f"{address}: {cause}; wanted a folder, or an address such as s3://BUCKET/PATH, gs://, hf:// or ssh://HOST/PATH"
    return str(error)


def _local_sizes(root: Path, folder: Path) -> Iterator[tuple[str, int]]:
    """Yield names and sizes of files; what a push that was killed long ago left half written goes."""
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
