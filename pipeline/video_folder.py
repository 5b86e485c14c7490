"""Videos by name in a folder of any depth: files, and folders of numbered images."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from pipeline.frames import IMAGE_SUFFIXES
from pipeline.question import Video

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".ts", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp")


class VideoFolder:
    """Finds videos under one folder: at a path the data set gives, else by name, anywhere below.

    By name, `clip_07` is a file `clip_07.mp4`, or with any other suffix of videos, or else a folder of images `clip_07`.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def find(self, video: Video) -> tuple[Path | None, str]:
        """Return (path, "") or (None, reason)."""
        names = (video.path, *video.other_paths)
        for name in names:
            path = self._root / name
            # Not resolve(): a video that is a symbolic link to another disk is fine, a name that climbs out is not.
            if not Path(os.path.normpath(path)).is_relative_to(self._root):
                return None, f"outside: {name!r} leads out of the videos folder"
            if path.exists() and path != self._root:
                if not path.is_file() and not path.is_dir():
                    return None, f"unreadable: {name!r} is neither a file nor a folder of images"
                return path, ""
        for name in names:
            candidates = self._by_name(Path(name).name)
            if len(candidates) == 1:
                return candidates[0], ""
            if candidates:
                found = ", ".join(sorted(str(candidate.relative_to(self._root)) for candidate in candidates))
                return None, f"ambiguous: {name!r} could be {found}"
        return None, f"missing: no file {' or '.join(map(repr, names))} in the videos folder"

    def _by_name(self, name: str) -> list[Path]:
        files, folders = self._below
        if name.lower().endswith(VIDEO_SUFFIXES):
            return files.get(name[: -len(Path(name).suffix)], [])
        return files.get(name, []) or [folder for folder in folders.get(name, []) if _holds_images(folder)]

    @cached_property
    def _below(self) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
        """Every video file below the root by its stem, and every folder by its name."""
        files: dict[str, dict[Path, Path]] = {}  # stem -> real file -> path
        folders: dict[str, list[Path]] = {}
        seen: set[Path] = {self._root}
        for folder, subfolders, names in os.walk(self._root, followlinks=True):
            # Links may lead back up; a folder reached twice is walked once, and a file counted once.
            subfolders[:] = [name for name in sorted(subfolders) if Path(folder, name).resolve() not in seen]
            seen.update(Path(folder, name).resolve() for name in subfolders)
            for name in subfolders:
                folders.setdefault(name, []).append(Path(folder, name))
            real = Path(
                folder
            ).resolve()  # once: to resolve every file costs a plan of thousands of videos half its time
            for name in sorted(names):
                if name.lower().endswith(VIDEO_SUFFIXES):
                    path = Path(folder, name)
                    file = path.resolve() if path.is_symlink() else real / name
                    files.setdefault(path.stem, {}).setdefault(file, path)
        return {stem: list(paths.values()) for stem, paths in files.items()}, folders


def _holds_images(folder: Path) -> bool:
    return any(file.suffix.lower() in IMAGE_SUFFIXES for file in folder.iterdir())
