"""What comes from outside: named in the recipe, found on this machine, identified by content.

A source whose files are not here has a problem. Its id is then the one it had when the store last saw it, so that stages which
need only what was made from it run without it (scoring on a machine without the videos), or None.
"""

from __future__ import annotations

import errno
import logging
import os
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache.digests import DigestCache, stamp
from cache.errors import MachineError, MissingSourceError
from cache.fingerprint import fingerprint
from pipeline.datasets import adapter_named
from pipeline.question import Video
from pipeline.video_folder import VideoFolder

log = logging.getLogger("sevila")

TELL_EVERY_SECONDS = 30.0
HUB_FILES = ["*.safetensors", "*.json"]  # hubs hold the same weights a second time as *.bin
KINDS = ("annotations", "videos", "weights")
OF_THIS_PROCESS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # no file is to blame for these


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
    stamp: tuple[int, ...] = ()  # size, times and inode when the digest was taken


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
        environment = {
            kind: filter(None, os.environ.get(f"SEVILA_{kind.upper()}", "").split(os.pathsep)) for kind in KINDS
        }
        # Nearest first; a bare path on the command line wins over a name in the file.
        self._levels: list[dict[tuple[str, str], Path]] = [
            {(kind, name): path for kind in KINDS for name, path in map(_split_place, places.get(kind, ()))},
            {(kind, name): path for kind in KINDS for name, path in map(_split_place, environment[kind])},
            _read_config_file(Path(os.environ.get("SEVILA_CONFIG", "sevila.toml"))),
        ]

    def place(self, kind: str, name: str) -> Path:
        """Return where the named source lies.

        Raises:
            MissingSourceError: nobody said where, or nothing is there; the message says how to say it.
        """
        place = self.configured(kind, name)
        if place is None:
            given = sorted({other for level in self._levels for of_kind, other in level if of_kind == kind})
            others = f" (places were given for {', '.join(map(repr, given))})" if given else ""
            raise MissingSourceError(
                f"nobody said where the {kind} {name!r} lie on this machine{others}: give `--{kind} {name}=PATH`, "
                f'set SEVILA_{kind.upper()}={name}=PATH, or write `{name} = "PATH"` under [{kind}] in sevila.toml'
            )
        if not place.exists():
            raise MissingSourceError(f"the {kind} {name!r} should lie at {place}, but nothing is there")
        return place

    def configured(self, kind: str, name: str) -> Path | None:
        """Return where the named source is said to lie, or None if nobody said."""
        found = [level.get((kind, name), level.get((kind, ""))) for level in self._levels]
        return next((place for place in found if place is not None), None)

    def annotations(self, name: str, split: str) -> Annotations:
        """Return the annotation files of one split of a data set, as its adapter names them."""
        try:
            path = self.place("annotations", name)
            adapter = adapter_named(name)
            files = adapter.files(path, split)
            digests: list[Any] = [self._digests.digest(file) for file in files]
        except MissingSourceError as error:
            return Annotations(self._remembered("annotations", name, split), str(error))
        self._digests.save()
        if adapter.about.names_count:
            folder = path.parent if path.is_file() else path
            digests = [
                [file.relative_to(folder).as_posix(), digest] for file, digest in zip(files, digests, strict=True)
            ]
        return Annotations(self._remember(f"annotations-{fingerprint(digests)}", "annotations", name, split), path=path)

    def weights(self, name: str) -> Weights:
        """Return a set of weights: a file, or a folder's files that hold weights, tokenizer and config."""
        try:
            path = self.weights_place(name)
            files = [path] if path.is_file() else weight_files(path)
            digests = {file.name: self._digests.digest(file) for file in files}
        except MissingSourceError as error:
            return Weights(self._remembered("weights", name), str(error), name)
        self._digests.save()
        # By role, not by name: a renamed checkpoint, or a README beside it, is the same weights.
        roles = [digests.get("config.json"), digests.get("tokenizer.json"), sorted(digests.values())]
        return Weights(self._remember(f"weights-{fingerprint(roles)}", "weights", name), "", name, path, digests)

    def weights_place(self, name: str) -> Path:
        """Return the folder or file of weights; a name like `owner/model` that nobody placed is asked of the model hub."""
        if "/" not in name or self.configured("weights", name) is not None:
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

    def identified(self, id: str, artifact: Callable[[str], Any]) -> Annotations | Weights | VideoFiles:
        """Return the source that has this id; `artifact` gives the questions that videos were looked for by.

        Raises:
            MissingSourceError: nobody remembers which source that was, or it is another one now.
        """
        source = self._digests.source_of(id)
        kind, _, what = (source or "").partition(" ")
        name, _, of = what.rpartition(" ")  # the split of annotations, the questions of videos
        if kind not in KINDS:
            raise MissingSourceError(f"this store does not remember which source {id} was")
        if kind == "weights":
            found: Annotations | Weights | VideoFiles = self.weights(what)
        else:
            found = self.annotations(name, of) if kind == "annotations" else self.videos(name, artifact(of))
        if not found.problem and found.id != id:
            raise MissingSourceError(
                f"the {source} on this machine are {found.id} now, wanted {id}: put back what was there"
            )
        return found

    def missing_videos(self, name: str, videos: Iterable[Video]) -> list[str]:
        """Return the ids of those videos that are not on this machine; raises `MissingSourceError` if nobody said where."""
        folder = self._video_folder(name)
        return [video.video_id for video in videos if folder.find(video)[0] is None]

    def videos(self, name: str, questions: Any) -> VideoFiles:
        """Return the files of the videos that `questions` (an artifact with `questions` and `videos` tables) asks about."""
        if questions.id is None or not questions.store.exists(questions.id):
            return VideoFiles(None, "waits for list_questions")
        try:
            folder = self._video_folder(name)
        except MissingSourceError as error:
            return VideoFiles(self._remembered("videos", name, questions.id), str(error))
        clips: dict[str, set[tuple[str, float | None, float | None]]] = {}
        for row in questions.rows("questions"):
            clips.setdefault(row["video_id"], set()).add((row["clip_id"], row["start_seconds"], row["end_seconds"]))
        wanted = sorted(questions.rows("videos"), key=lambda row: str(row["video_id"]))
        log.info("identifying %d videos by content; only new and changed files are read", len(wanted))
        found: list[VideoFile] = []
        told = time.monotonic()
        for row in self._digests.saving(wanted):
            if time.monotonic() - told > TELL_EVERY_SECONDS:
                told = time.monotonic()
                log.info("identified %d of %d videos", len(found), len(wanted))
            path, reason = folder.find(Video(row["video_id"], row["path"], tuple(row["other_paths"])))
            video_clips = tuple(sorted(clips[row["video_id"]], key=str))
            found.append(self._video_file(row["video_id"], path, reason, video_clips))
        identity = [[video.video_id, video.digest, video.reason.split(":")[0], video.clips] for video in found]
        id = self._remember(f"videos-{fingerprint(identity)}", "videos", name, questions.id)
        return VideoFiles(id, videos=tuple(found))

    def _video_folder(self, name: str) -> VideoFolder:
        place = self.place("videos", name)
        if not place.is_dir():
            raise MissingSourceError(f"the videos {name!r} should lie in a folder, but {place} is a file")
        return VideoFolder(place)

    def _video_file(
        self, video_id: str, path: Path | None, reason: str, clips: tuple[tuple[str, float | None, float | None], ...]
    ) -> VideoFile:
        if path is None:
            return VideoFile(video_id, None, None, reason, clips)
        before: tuple[int, ...] = ()
        with suppress(OSError):  # which reading it tells
            before = stamp(path)  # of a file that is replaced meanwhile, the digest is not of what will be decoded
        try:
            return VideoFile(video_id, path, self._digests.digest(path), reason, clips, before)
        except MissingSourceError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in OF_THIS_PROCESS:
                raise MachineError(
                    f"video {video_id!r}: {error}; the same command goes on when the cause is gone"
                ) from error
            reason = str(error).replace(str(path), path.name)  # in which folder of this machine is no part of a row
            return VideoFile(video_id, None, None, f"unreadable: {reason}", clips)

    def _remember(self, id: str, *what: str) -> str:
        self._digests.remember(" ".join(what), id)
        return id

    def _remembered(self, kind: str, name: str, *what: str) -> str | None:
        """Return the identity a source had when this store last saw it: enough to find what was made from it.

        Only where nobody said where it lies. A wrong place stays an error: it was meant to say something.
        """
        id = self._digests.remembered(" ".join((kind, name, *what)))
        if id is None or self.configured(kind, name) is not None:
            return None
        log.info("%s %r: not on this machine; taken to be %s, as this store last saw them", kind, name, id)
        return id


def _read_config_file(path: Path) -> dict[tuple[str, str], Path]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise MissingSourceError(f"{path}: not readable as TOML: {error}") from error
    places = {}
    for kind, entries in content.items():
        if kind not in KINDS or not isinstance(entries, dict):
            raise MissingSourceError(f"{path}: section [{kind}] is not one of {', '.join(f'[{k}]' for k in KINDS)}")
        for name, place in entries.items():
            if not isinstance(place, str):
                raise MissingSourceError(f"{path}: {kind}.{name} is {place!r}, wanted a path in quotes")
            places[kind, name] = path.absolute().parent / Path(place).expanduser()
    return places


def _split_place(place: str) -> tuple[str, Path]:
    """Split NAME=PATH; a path may hold the sign itself, so what exists, or looks like a path before the sign, is a bare one."""
    name, separator, path = place.partition("=")
    if not separator or name.startswith(("/", ".", "~")) or Path(place).expanduser().exists():
        return "", Path(place).expanduser()
    return name, Path(path).expanduser()


def weight_files(folder: Path) -> list[Path]:
    """Return the files of a Hugging Face directory that are read: config, tokenizer and one set of weights.

    Raises:
        MissingSourceError: there is no weight file.
    """
    for pattern in ("*.safetensors*", "pytorch_model*.bin*"):  # the order in which the loader looks
        weights = sorted(folder.glob(pattern))
        if weights:
            return [file for file in (folder / "config.json", folder / "tokenizer.json") if file.exists()] + weights
    raise MissingSourceError(f"{folder}: no weight file (*.safetensors or pytorch_model*.bin) is there")
