"""Weights as they lie on this machine: which files loading opens, and whether they are still those that were identified."""

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
]  # hubs hold the same weights a second time as *.bin
MOST_LINKS = 40  # as Linux has it


@dataclass(frozen=True)
class Weights:
    """The files of one set of weights, and what was there when they were identified.

    `files` maps each file's name to its SHA-256, `stamps` each file to its stamp and those of the links that lead to it;
    `files_of` lists what loading opens.
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
        """Raise `MissingSourceError` unless what loading opens is what was identified; to be asked after it was loaded."""
        assert self.path is not None
        try:
            now = {file: (stamp(file), *links_to(file)) for file in self.files_of(self.path)}
        except (CheckpointError, OSError) as error:
            raise MissingSourceError(f"{self.path}: the weights went while they were read: {error}") from error
        if now != self.stamps:
            raise MissingSourceError(
                f"{self.path}: the weights {self.name!r} were replaced while they were read; run again"
            )


def links_to(path: Path) -> list[tuple[int, ...]]:
    """Return the stamps of all symbolic links on the way to a file; raises `OSError` where they lead nowhere.

    A link that was switched and switched back leads to the same file as before, but is another link.
    """
    here, left = Path("/"), list(reversed(path.absolute().parts[1:]))
    stamps: list[tuple[int, ...]] = []
    while left:
        part = left.pop()
        here, beside = (here.parent if part == ".." else here / part), here
        if not here.is_symlink():
            continue
        if len(stamps) == MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target, status = Path(os.readlink(here)), os.lstat(here)
        stamps.append((status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
        left += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        here = Path("/") if target.is_absolute() else beside
    return stamps


def of_hub(name: str, download: bool) -> Path:
    """Return the folder of the weights that a model hub has under this name, as it was fetched before unless `download`.

    Raises:
        MissingSourceError: they are not here, or the hub did not give them.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES, local_files_only=not download))
    except Exception as error:  # the hub client raises many kinds, offline ones among them
        raise MissingSourceError(
            f"the weights {name!r} are not on this machine"
            + (f", and the model hub did not give them ({type(error).__name__}); " if download else "; ")
            + f"give `--weights {name}=PATH` for a folder downloaded before, or --download to fetch them from the Hugging Face "
            "Hub; `sevila weights ls` says where they are from and how large they are"
        ) from error
