"""Weights on this machine: the files that loading opens, and a check that they are still those that were identified."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cache.digests import stamp
from cache.errors import CheckpointError, MissingSourceError
from pipeline.checkpoint_files import checkpoint_files

HUB_FILES = [
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.model",
    "merges.txt",
    "vocab.txt",
]  # not *.bin, which have the same weights a second time
MAX_LINKS = 40  # limit of symbolic links in a path, as in Linux


@dataclass(frozen=True)
class Weights:
    """The files of one set of weights, as they were when they were identified.

    `files` maps file names to SHA-256, `stamps` maps files to their stamp and those of the symbolic links leading to them;
    `files_of` lists the files that loading opens.
    """

    id: str | None
    problem: str = ""
    name: str = ""
    path: Path | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    stamps: Mapping[Path, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    source: str = ""
    files_of: Callable[[Path], list[Path]] = checkpoint_files

    def refuse_changed(self) -> None:
        """Raise `MissingSourceError` if the files have changed since they were identified; call it after loading them."""
        assert self.path is not None
        try:
            current = {file: (stamp(file), *links_to(file)) for file in self.files_of(self.path)}
        except (CheckpointError, OSError) as error:
            raise MissingSourceError(f"{self.path}: the weights were removed while they were read: {error}") from error
        if current != self.stamps:
            raise MissingSourceError(
                f"{self.path}: the weights {self.name!r} were replaced while they were read; run again"
            )


def links_to(path: Path) -> list[tuple[int, ...]]:
    """Return the stamps of all symbolic links in a path; raise `OSError` if they are too many or broken.

    They detect a link that was switched and switched back, which leads to the same file as before.
    """
    here, remaining = Path("/"), list(reversed(path.absolute().parts[1:]))
    stamps: list[tuple[int, ...]] = []
    while remaining:
        part = remaining.pop()
        here, beside = (here.parent if part == ".." else here / part), here
        if not here.is_symlink():
            continue
        if len(stamps) == MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target, status = Path(os.readlink(here)), os.lstat(here)
        stamps.append((status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
        remaining += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        here = Path("/") if target.is_absolute() else beside
    return stamps


def hub_folder(name: str, download: bool) -> Path:
    """Return the folder of weights of the Hugging Face Hub: from its local cache, or downloaded if `download`.

    Raises:
        MissingSourceError: they are not in the cache, or the download failed.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES, local_files_only=not download))
    except Exception as error:  # the hub client raises many types
        raise MissingSourceError(
            f"the weights {name!r} are not on this machine"
            + (f", and the model hub did not give them ({type(error).__name__}); " if download else "; ")
            + f"give `--weights {name}=PATH` for a folder downloaded before, or --download to fetch them from the Hugging Face "
            "Hub; `sevila weights ls` says where they are from and how large they are"
        ) from error
