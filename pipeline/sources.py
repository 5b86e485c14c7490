"""What comes from outside: named in the recipe, found on this machine, identified by content.

A source whose files are not here has no id but a problem, so that a plan can be shown without them.
"""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cache.errors import MissingSourceError
from cache.fingerprint import DigestCache, fingerprint
from pipeline.datasets import adapter_named
from pipeline.question import Video

log = logging.getLogger("sevila")

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".ts", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp")
WEIGHT_FILES = ["*.safetensors", "*.json", "*.bin", "*.pth"]
HUB_FILES = ["*.safetensors", "*.json"]  # hubs hold the same weights a second time as *.bin
KINDS = ("annotations", "videos", "weights")


@dataclass(frozen=True)
class Annotations:
    """The annotation files of one split of a data set: `path` is the folder or file given for the data set's name."""

    id: str | None
    problem: str = ""
    path: Path | None = None


@dataclass(frozen=True)
class Weights:
    """The files of one set of weights; `files` maps each file's name to its SHA-256."""

    id: str | None
    problem: str = ""
    name: str = ""
    path: Path | None = None
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class VideoFile:
    """One video of the questions: where it lies, its SHA-256, or why it is not there (`reason`), and the clips asked of it.

    `clips` are (clip_id, start_seconds, end_seconds), the bounds None for the whole video.
    """

    video_id: str
    path: Path | None
    digest: str | None
    reason: str
    clips: tuple[tuple[str, float | None, float | None], ...]


@dataclass(frozen=True)
class VideoFiles:
    """The videos that a set of questions asks about; identified by their contents and clips, not by the questions' text."""

    id: str | None
    problem: str = ""
    videos: tuple[VideoFile, ...] = ()


class Sources:
    """Finds named data and weights on this machine.

    Places are looked up in the order: `places` (the command line), the environment (`SEVILA_ANNOTATIONS`, `SEVILA_VIDEOS`,
    `SEVILA_WEIGHTS`), then `sevila.toml` (or the file named by `SEVILA_CONFIG`). Each place is `NAME=PATH`, several of them
    separated by the path separator, or a bare PATH that serves every name of its kind.
    """

    def __init__(self, digests: DigestCache, places: Mapping[str, Iterable[str]], download: bool = True) -> None:
        self._digests = digests
        self._download = download
        self._places: dict[str, dict[str, Path]] = {kind: {} for kind in KINDS}
        self._read_config_file(Path(os.environ.get("SEVILA_CONFIG", "sevila.toml")))
        for kind in KINDS:
            from_environment = os.environ.get(f"SEVILA_{kind.upper()}", "")
            for place in [*filter(None, from_environment.split(os.pathsep)), *places.get(kind, ())]:
                name, path = _split_place(place)
                self._places[kind][name] = path

    def _read_config_file(self, path: Path) -> None:
        try:
            content = tomllib.loads(path.read_text())
        except FileNotFoundError:
            return
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise MissingSourceError(f"{path}: not readable as TOML: {error}") from error
        for kind, entries in content.items():
            if kind not in KINDS or not isinstance(entries, dict):
                raise MissingSourceError(f"{path}: section [{kind}] is not one of {', '.join(f'[{k}]' for k in KINDS)}")
            for name, place in entries.items():
                if not isinstance(place, str):
                    raise MissingSourceError(f"{path}: {kind}.{name} is {place!r}, wanted a path in quotes")
                self._places[kind][name] = path.absolute().parent / Path(place).expanduser()

    def configured(self, kind: str, name: str) -> Path | None:
        """Return where the named source is said to lie, or None if nobody said."""
        return self._places[kind].get(name, self._places[kind].get(""))

    def place(self, kind: str, name: str) -> Path:
        """Return where the named source lies.

        Raises:
            MissingSourceError: nobody said where, or nothing is there; the message says how to say it.
        """
        place = self.configured(kind, name)
        if place is None:
            raise MissingSourceError(
                f"nobody said where the {kind} {name!r} lie on this machine: give `--{kind} {name}=PATH`, "
                f'set SEVILA_{kind.upper()}={name}=PATH, or write `{name} = "PATH"` under [{kind}] in sevila.toml'
            )
        if not place.exists():
            raise MissingSourceError(f"the {kind} {name!r} should lie at {place}, but nothing is there")
        return place

    def annotations(self, name: str, split: str) -> Annotations:
        """Return the annotation files of one split of a data set, as its adapter names them."""
        try:
            path = self.place("annotations", name)
            files = adapter_named(name).files(path, split)
            digests = {file.name: self._digests.digest(file) for file in files}
        except MissingSourceError as error:
            return Annotations(None, str(error))
        self._digests.save()
        return Annotations(f"annotations-{fingerprint(digests)}", path=path)

    def weights(self, name: str) -> Weights:
        """Return a set of weights: a file, or a folder's files that hold weights, tokenizer and config."""
        try:
            path = self.weights_place(name)
            files = (
                [path] if path.is_file() else sorted({file for pattern in WEIGHT_FILES for file in path.glob(pattern)})
            )
            digests = {file.name: self._digests.digest(file) for file in files}
            if not digests:
                raise MissingSourceError(f"the weights {name!r} should lie at {path}, but no weight file is there")
        except MissingSourceError as error:
            return Weights(None, str(error), name)
        self._digests.save()
        return Weights(f"weights-{fingerprint(digests)}", name=name, path=path, files=digests)

    def weights_place(self, name: str) -> Path:
        """Return the folder or file of weights; a name like `owner/model` that nobody placed is asked of the model hub."""
        if "/" not in name or name in self._places["weights"] or "" in self._places["weights"]:
            return self.place("weights", name)
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(name, allow_patterns=HUB_FILES, local_files_only=not self._download))
        except Exception as error:  # the hub client raises many kinds, offline ones among them
            raise MissingSourceError(
                f"the weights {name!r} are not on this machine"
                + (f" and the model hub did not give them ({type(error).__name__})" if self._download else "")
                + f"; give `--weights {name}=PATH` for a folder downloaded before"
            ) from error

    def missing_videos(self, name: str, videos: Iterable[Video]) -> list[str]:
        """Return the ids of those videos that are not on this machine; raises `MissingSourceError` if nobody said where."""
        folder = _VideoFolder(self.place("videos", name))
        return [video.video_id for video in videos if folder.find(video)[0] is None]

    def videos(self, name: str, questions: Any) -> VideoFiles:
        """Return the files of the videos that `questions` (an artifact with `questions` and `videos` tables) asks about."""
        if questions.id is None or not questions.store.exists(questions.id):
            return VideoFiles(None, "waits for list_questions")
        try:
            folder = _VideoFolder(self.place("videos", name))
        except MissingSourceError as error:
            return VideoFiles(None, str(error))
        clips: dict[str, dict[str, tuple[str, float | None, float | None]]] = {}
        for row in questions.rows("questions"):
            clip = (row["clip_id"], row["start_seconds"], row["end_seconds"])
            clips.setdefault(row["video_id"], {})[row["clip_id"]] = clip
        wanted = questions.rows("videos")
        log.info("identifying %d videos by content; only new and changed files are read", len(wanted))
        found = []
        for row in wanted:
            path, reason = folder.find(Video(row["video_id"], row["path"], tuple(row["other_paths"])))
            digest = None
            if path is not None:
                try:
                    digest = self._digests.digest(path)
                except MissingSourceError as error:
                    path, reason = None, f"unreadable: {error}"
            found.append(VideoFile(row["video_id"], path, digest, reason, tuple(clips[row["video_id"]].values())))
        self._digests.save()
        identity = [[video.video_id, video.digest, video.reason.split(":")[0], video.clips] for video in found]
        return VideoFiles(f"videos-{fingerprint(identity)}", videos=tuple(found))


def _split_place(place: str) -> tuple[str, Path]:
    """Split NAME=PATH; a path may hold the sign itself, so what exists, or looks like a path before the sign, is a bare one."""
    name, separator, path = place.partition("=")
    if not separator or name.startswith(("/", ".", "~")) or Path(place).expanduser().exists():
        return "", Path(place).expanduser()
    return name, Path(path).expanduser()


class _VideoFolder:
    """Finds videos under one folder: at a path the data set gives, else by name, anywhere below.

    By name, `clip_07` is a file `clip_07.mp4`, or any other video suffix, or else a folder of images `clip_07`.
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
        """Every video file below the folder by its stem, and every folder by its name."""
        files: dict[str, list[Path]] = {}
        folders: dict[str, list[Path]] = {}
        for folder, folder_names, names in os.walk(self._root, followlinks=True):
            for name in sorted(folder_names):
                folders.setdefault(name, []).append(Path(folder, name))
            for name in sorted(names):
                if name.lower().endswith(VIDEO_SUFFIXES):
                    files.setdefault(Path(name).stem, []).append(Path(folder, name))
        return files, folders


def _holds_images(folder: Path) -> bool:
    from pipeline.probing import IMAGE_SUFFIXES  # it loads a decoder, which most commands have no use for

    return any(file.suffix.lower() in IMAGE_SUFFIXES for file in folder.iterdir())
