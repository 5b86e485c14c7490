"""Search for videos by name in a folder of any depth: files, and folders of numbered images."""

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
ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}  # errors that mean that there is no such file
CLOSED_SHOWN = 3
FETCH = "is its disk mounted, or what it leads to still to be fetched (`git annex get`, `dvc pull`)?"
SHOWN_CHARACTERS = 203  # limit for names in messages: an unclosed quote in a CSV makes one name of the whole file


@dataclass
class _Index:
    """The files below a folder, by names in Unicode form NFC, as Macs store names in another form than users type."""

    paths: dict[str, list[Path]] = field(default_factory=dict)  # by path relative to the root
    names: dict[str, list[Path]] = field(default_factory=dict)
    stems: dict[str, list[Path]] = field(default_factory=dict)  # files with a video suffix, by name without it
    folders: dict[str, list[Path]] = field(default_factory=dict)  # by name
    closed: list[str] = field(default_factory=list)  # unreadable folders

    def add(self, path: Path, relative: str) -> None:
        """Add a file; `relative` is its path relative to the root."""
        name = os.path.basename(relative)
        self.paths.setdefault(relative, []).append(path)
        self.names.setdefault(name, []).append(path)
        if name.lower().endswith(VIDEO_SUFFIXES):
            self.stems.setdefault(os.path.splitext(name)[0], []).append(path)


class VideoFolder:
    """Finds videos below a folder: at the path that the data set gives, else by name in any subfolder.

    The name `clip_07` matches a file `clip_07.mp4`, or with another video suffix, or else a folder of images `clip_07`. A name
    with a suffix matches a file of exactly that name first, whatever the suffix.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))

    def find(self, video: Video) -> tuple[Path | None, str]:
        """Return (path, "") or (None, reason)."""
        names, dangling = (video.path, *video.other_paths), ""
        for name in names:
            path = self.root / name
            # Not resolve(): a symbolic link to another disk is allowed, a name with `..` that leaves the root is not.
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
                dangling = dangling or name
                continue
            if len(candidates) == 1:
                problem = _problem(candidates[0], name)
                return (None, problem) if problem else (candidates[0], "")
            if candidates:
                meanings = ", ".join(sorted(str(candidate.relative_to(self.root)) for candidate in candidates))
                return None, f"ambiguous: {_shown(name)} could be {meanings}"
        if dangling:
            return None, f"missing: {_shown(dangling)} is a link to nothing; {FETCH}"
        closed = f"; not looked into: {', '.join(self._index.closed[:CLOSED_SHOWN])}" if self._index.closed else ""
        return None, f"missing: no file {' or '.join(map(_shown, names))} in the videos folder{closed}"

    def all_missing(self, lookups: Iterable[tuple[Path | None, str]]) -> str:
        """Return an error message if all results of `find` are missing videos, else ""; stop at the first other result."""
        reasons = []
        for path, reason in lookups:
            if path is not None or not reason.startswith("missing:"):
                return ""
            reasons.append(reason)
        if not reasons:
            return ""
        return (
            f"{self.root}: found none of the {len(reasons)} videos of the questions (first {reasons[0]}); expected the "
            "folder that holds them: --videos, SEVILA_VIDEOS or sevila.toml"
        )

    def _by_name(self, path: str) -> list[Path]:
        """Return the files that match a name by the first rule that has matches."""
        index, name, path = self._index, Path(path).name, os.path.normpath(path)
        same_name = _of_form(index.names, name)
        if name.lower().endswith(VIDEO_SUFFIXES):
            candidates = [same_name, _of_form(index.stems, name[: -len(Path(name).suffix)])]
        else:
            images = [folder for folder in _of_form(index.folders, name) if _holds_images(folder)]
            candidates = [_of_form(index.stems, name), images]
            candidates.insert(0 if Path(name).suffix else 2, same_name)
        files = next(filter(None, [_of_form(index.paths, path), *candidates]), [])
        if len(files) > 1 and (parent := normalize("NFC", os.path.dirname(path))):  # `train/1` is not `test/1`
            there = [file for file in files if normalize("NFC", os.path.relpath(file.parent, self.root)) == parent]
            files = there or files
        # Links can lead to the same file twice.
        return files if len(files) < 2 else list({os.path.realpath(file): file for file in reversed(files)}.values())

    @cached_property
    def _index(self) -> _Index:
        """All folders below the root, and all files other than images."""
        index = _Index()
        seen = {str(self.root)}

        def note_closed(error: OSError) -> None:
            index.closed.append(f"{_shown(os.path.relpath(error.filename, self.root))} ({error.strerror})")

        for folder, subfolders, names in os.walk(self.root, followlinks=True, onerror=note_closed):
            # Each folder once: links may lead back up.
            reals = {name: os.path.realpath(os.path.join(folder, name)) for name in sorted(subfolders)}
            subfolders[:] = [name for name, real in reals.items() if real not in seen]
            seen.update(reals.values())
            for name in subfolders:
                index.folders.setdefault(normalize("NFC", name), []).append(Path(folder, name))
            relative = os.path.relpath(folder, self.root)
            for name in sorted(names):
                if not name.lower().endswith(IMAGE_SUFFIXES):
                    index.add(Path(folder, name), normalize("NFC", os.path.normpath(os.path.join(relative, name))))
        return index


def _of_form(index: dict[str, list[Path]], name: str) -> list[Path]:
    """Return the files of a name in exactly this Unicode form, or in any form if there are none."""
    paths = index.get(normalize("NFC", name), [])
    if len(paths) < 2:
        return paths
    return [path for path in paths if f"/{name}" in f"/{path}"] or paths


def _problem(path: Path, name: str) -> str | None:
    """Return why a path cannot be a video; "" if it can, None if it does not exist."""
    try:
        mode = os.stat(path).st_mode
    except ValueError:  # a NUL in the name
        return None
    except OSError as error:
        return None if error.errno in ABSENT else f"unreadable: {_shown(name)}: {error.strerror}"
    if stat.S_ISDIR(mode):
        return None if _holds_dangling_links(path) else ""
    if stat.S_ISREG(mode):
        return ""
    return f"unreadable: {_shown(name)} is neither a file nor a folder of images"


def _shown(name: str) -> str:
    return repr(shortened(name, SHOWN_CHARACTERS))


def _holds_dangling_links(folder: Path) -> bool:
    """Return whether a folder holds images that are all dangling links."""
    try:
        images = [name for name in os.listdir(folder) if name.lower().endswith(IMAGE_SUFFIXES)]
    except OSError:  # reported when the folder is read
        return False
    return bool(images) and not any(map(os.path.exists, (os.path.join(folder, name) for name in images)))


def _holds_images(folder: Path) -> bool:
    try:
        return any(name.lower().endswith(IMAGE_SUFFIXES) for name in os.listdir(folder))
    except OSError:  # reported when the folder is read
        return True
