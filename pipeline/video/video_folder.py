"""Videos by name in a folder of any depth: files, and folders of numbered images."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from unicodedata import normalize

from cache.printable import shortened
from pipeline.datasets.question import Video
from pipeline.video.frames import IMAGE_SUFFIXES

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".ts", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp")
ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}  # no file can have a name that is too long
CLOSED_SHOWN = 3
FETCH = "is its disk mounted, or what it leads to still to be fetched (`git annex get`, `dvc pull`)?"
SHOWN_CHARACTERS = 203  # of a name: a quote that is not closed makes one of a whole file


@dataclass
class _Index:
    """The files below a folder, by names in one Unicode form: disks of Macs keep another one than people type."""

    paths: dict[str, list[Path]] = field(default_factory=dict)  # every file by its path below the root
    names: dict[str, list[Path]] = field(default_factory=dict)  # every file by its name
    # Every file with a suffix of videos by its name without it.
    stems: dict[str, list[Path]] = field(default_factory=dict)
    folders: dict[str, list[Path]] = field(default_factory=dict)
    closed: list[str] = field(default_factory=list)  # folders that could not be looked into

    def add(self, path: Path, below: str) -> None:
        """Take in a file; `below` is its path below the root."""
        name = os.path.basename(below)
        self.paths.setdefault(below, []).append(path)
        self.names.setdefault(name, []).append(path)
        if name.lower().endswith(VIDEO_SUFFIXES):
            self.stems.setdefault(os.path.splitext(name)[0], []).append(path)


class VideoFolder:
    """Finds videos under one folder: at a path the data set gives, else by name, anywhere below.

    By name, `clip_07` is a file `clip_07.mp4`, or with any other suffix of videos, or else a folder of images `clip_07`; a name
    with a suffix is a file of exactly that name first, whatever the suffix is.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))

    def find(self, video: Video) -> tuple[Path | None, str]:
        """Return (path, "") or (None, reason)."""
        names, to_nothing = (video.path, *video.other_paths), ""
        for name in names:
            path = self.root / name
            # Not resolve(): a video that is a symbolic link to another disk is fine, a name that climbs out is not.
            if not Path(os.path.normpath(path)).is_relative_to(self.root):
                return None, f"outside: {_shown(name)} leads out of the videos folder"
            problem = _problem(path, name)
            if problem:
                return None, problem
            if problem is not None and path != self.root:
                return path, ""
        for name in names:
            candidates = self._by_name(name)
            if candidates and all(_problem(candidate, name) is None for candidate in candidates):
                to_nothing = to_nothing or name
                continue
            if len(candidates) == 1:
                problem = _problem(candidates[0], name)
                return (None, problem) if problem else (candidates[0], "")
            if candidates:
                meanings = ", ".join(sorted(str(candidate.relative_to(self.root)) for candidate in candidates))
                return None, f"ambiguous: {_shown(name)} could be {meanings}"
        if to_nothing:
            return None, f"missing: {_shown(to_nothing)} is a link to nothing; {FETCH}"
        closed = f"; not looked into: {', '.join(self._index.closed[:CLOSED_SHOWN])}" if self._index.closed else ""
        return None, f"missing: no file {' or '.join(map(_shown, names))} in the videos folder{closed}"

    def all_missing(self, lookups: Iterable[tuple[Path | None, str]]) -> str:
        """Return what is wrong where each of the things that `find` returned is missing, else ""; takes no more than it needs."""
        reasons = []
        for path, reason in lookups:
            if path is not None or not reason.startswith("missing:"):
                return ""
            reasons.append(reason)
        if not reasons:  # nothing is asked about
            return ""
        return (
            f"{self.root}: none of the {len(reasons)} videos that are asked about is in it (first {reasons[0]}); wanted the "
            "folder that holds them: --videos, SEVILA_VIDEOS or sevila.toml"
        )

    def _by_name(self, path: str) -> list[Path]:
        """Return the files that a name can mean, by the first sort of name that any has."""
        index, name = self._index, Path(path).name
        named = _of_form(index.names, name)
        if name.lower().endswith(VIDEO_SUFFIXES):
            sorts = [named, _of_form(index.stems, name[: -len(Path(name).suffix)])]
        else:
            images = [folder for folder in _of_form(index.folders, name) if _holds_images(folder)]
            sorts = [_of_form(index.stems, name), images]
            sorts.insert(0 if Path(name).suffix else 2, named)
        files = next(filter(None, [_of_form(index.paths, os.path.normpath(path)), *sorts]), [])
        if len(files) > 1 and (
            place := normalize("NFC", os.path.dirname(os.path.normpath(path)))
        ):  # `train/1` is not `test/1`
            there = [file for file in files if normalize("NFC", os.path.relpath(file.parent, self.root)) == place]
            files = there or files
        # A file that is reached twice, through links, is one.
        return files if len(files) < 2 else list({os.path.realpath(each): each for each in reversed(files)}.values())

    @cached_property
    def _index(self) -> _Index:
        """Every file below the root that is no image, and every folder by its name."""
        index = _Index()
        seen = {str(self.root)}

        def closed(error: OSError) -> None:
            index.closed.append(f"{_shown(os.path.relpath(error.filename, self.root))} ({error.strerror})")

        for folder, subfolders, names in os.walk(self.root, followlinks=True, onerror=closed):
            # Links may lead back up; a folder reached twice is walked once.
            reals = {name: os.path.realpath(os.path.join(folder, name)) for name in sorted(subfolders)}
            subfolders[:] = [name for name, real in reals.items() if real not in seen]
            seen.update(reals.values())
            for name in subfolders:
                index.folders.setdefault(normalize("NFC", name), []).append(Path(folder, name))
            below = os.path.relpath(folder, self.root)
            for name in sorted(names):
                if not name.lower().endswith(IMAGE_SUFFIXES):
                    index.add(Path(folder, name), normalize("NFC", os.path.normpath(os.path.join(below, name))))
        return index


def _of_form(index: dict[str, list[Path]], name: str) -> list[Path]:
    """Return the files of a name in any Unicode form; those in exactly this form where there are some."""
    paths = index.get(normalize("NFC", name), [])
    if len(paths) < 2:
        return paths
    return [path for path in paths if f"/{name}" in f"/{path}"] or paths


def _problem(path: Path, name: str) -> str | None:
    """Return why a path cannot be a video: "" if it can, None if nothing is there."""
    try:
        mode = os.stat(path).st_mode
    except ValueError:  # a NUL in the name
        return None
    except OSError as error:
        return None if error.errno in ABSENT else f"unreadable: {_shown(name)}: {error.strerror}"
    if stat.S_ISDIR(mode):
        return None if _holds_links_to_nothing(path) else ""
    if stat.S_ISREG(mode):
        return ""
    return f"unreadable: {_shown(name)} is neither a file nor a folder of images"


def _shown(name: str) -> str:
    return repr(shortened(name, SHOWN_CHARACTERS))


def _holds_links_to_nothing(folder: Path) -> bool:
    """Whether a folder holds images, each of them a link to nothing."""
    try:
        images = [name for name in os.listdir(folder) if name.lower().endswith(IMAGE_SUFFIXES)]
    except OSError:  # a reason that is found when it is read
        return False
    return bool(images) and not any(map(os.path.exists, (os.path.join(folder, name) for name in images)))


def _holds_images(folder: Path) -> bool:
    try:
        return any(name.lower().endswith(IMAGE_SUFFIXES) for name in os.listdir(folder))
    except OSError:  # a reason that is found when it is read
        return True
