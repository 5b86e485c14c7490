"""Data and weights from outside: named in the recipe, found on this machine, identified by content.

A source whose files are not here has a problem, and no id. Only callers that ask for it get the id that it had when something was
last made from it (`remembered`): a plan, a piece of an artifact whose id is known, a stage that needs no videos.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache.digests import DigestCache
from cache.errors import CheckpointError, MachineError, MissingSourceError
from cache.fingerprint import fingerprint
from cache.printable import counted
from pipeline.checkpoint_files import checkpoint_files, refuse_downloads_gone_wrong
from pipeline.datasets.adapter import files_of
from pipeline.datasets.question import Question, Video
from pipeline.datasets.registry import adapter_named
from pipeline.datasets.score_files import files_of_scores
from pipeline.datasets.subtitles import subtitle_files
from pipeline.engine.joined import refuse_cut
from pipeline.engine.places import KINDS, PlaceLookup, ServerPlace
from pipeline.engine.progress import LOG_EVERY_SECONDS
from pipeline.engine.weights import Weights, links_to, of_hub
from pipeline.reasons import Reason
from pipeline.video.image_names import order_problem
from pipeline.video.video_folder import VideoFolder

log = logging.getLogger("sevila")

OF_THIS_PROCESS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # no file is to blame for these


@dataclass(frozen=True)
class AnnotationFiles:
    """The annotation files of one split of a data set, or files of scores: `path` is the folder or file given for their name.

    `digests` are the files' SHA-256; `source` is what the store remembers the id by, here and below. `subtitles` are those of
    the files of subtitles, of which not all are read, and `subtitle_names` their names.
    """

    id: str | None
    problem: str = ""
    path: Path | None = None
    digests: Mapping[Path, str] = field(default_factory=dict)
    source: str = ""
    subtitles: Mapping[Path, str] = field(default_factory=dict)
    subtitle_names: Mapping[Path, str] = field(default_factory=dict)

    def refuse_others(self, read: Mapping[Path, str]) -> None:
        """Raise `MissingSourceError` unless the SHA-256 of what was read of each file are those that the id says."""
        known = {**self.subtitles, **self.digests}
        others = {file for file in read.keys() | self.digests if read.get(file) != known.get(file)}
        if others:
            raise MissingSourceError(
                f"{', '.join(sorted(map(str, others)))}: replaced between being identified and being read; run again"
            )


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
    source: str = ""


class Sources:
    """Finds named data and weights on this machine, where the places say.

    `remembered` are the kinds of sources that the store's memory stands in for where no path is given. A run takes
    none: its numbers are of what it was given. A store below was given too: what that remembers of videos always serves.
    """

    def __init__(
        self,
        digests: DigestCache,
        places: Mapping[str, Iterable[str]],
        download: bool = False,
        remembered: Collection[str] = (),
    ) -> None:
        self.places = PlaceLookup(places)
        self._digests = digests
        self._download = download
        self._remembered_kinds = remembered

    def annotations(self, name: str, split: str, subtitles: bool = False) -> AnnotationFiles:
        """Return the annotation files of one split of a data set, as its adapter names them, with its subtitles if asked for."""
        source = f"annotations {name} {split}" + " with subtitles" * subtitles
        adapter = adapter_named(name)
        try:
            path = self.places.place("annotations", name)
            digests = {file: self._digests.digest(file) for file in files_of(adapter, path, split)}
            names_of = subtitle_files(adapter.about, path) if subtitles else {}
            of_subtitles = {file: self._digests.digest(file) for file in names_of}
        except MissingSourceError as error:
            return AnnotationFiles(self._remembered(source, "annotations", name), str(error), source=source)
        self._digests.save()
        identity: list[Any] = list(digests.values())
        if adapter.about.name_says is not None:
            folder = path.parent if path.is_file() else path
            names = {file: file.relative_to(folder).as_posix() for file in digests}
            identity = [
                [names[file], digest, *adapter.about.name_says(names[file])] for file, digest in digests.items()
            ]
        if subtitles:
            identity = [identity, sorted([names_of[file], digest] for file, digest in of_subtitles.items())]
        return AnnotationFiles(
            f"annotations-{fingerprint(identity)}", "", path, digests, source, of_subtitles, names_of
        )

    def scores(self, name: str) -> AnnotationFiles:
        """Return the files of scores that were made elsewhere."""
        source = f"scores {name}"
        try:
            path = self.places.place("scores", name)
            digests = {file: self._digests.digest(file) for file in files_of_scores(path)}
        except MissingSourceError as error:
            return AnnotationFiles(self._remembered(source, "scores", name), str(error), source=source)
        self._digests.save()
        return AnnotationFiles(f"scores-{fingerprint(list(digests.values()))}", "", path, digests, source)

    def weights(self, name: str, files_of: Callable[[Path], list[Path]] = checkpoint_files) -> Weights:
        """Return a set of weights: a file, or those of a folder's files that loading opens, as `files_of` lists them."""
        source = f"weights {name}"
        try:
            path = self.weights_place(name)
            # The folder itself: a link to it may lead to another one by the time that it is loaded.
            path = path.resolve() if path.is_dir() else path
            links = {file: links_to(file) for file in files_of(path)}
            identified = {file: self._digests.identify(file) for file in links}
            refuse_downloads_gone_wrong(identified)
        except (MissingSourceError, CheckpointError, OSError) as error:
            return Weights(self._remembered(source, "weights", name), str(error), name, source=source)
        self._digests.save()
        digests = {file.name: digest for file, (digest, _) in identified.items()}
        # By role, not by name: a renamed checkpoint, or a README beside it, is the same weights.
        roles = [digests.get("config.json"), digests.get("tokenizer.json"), sorted(digests.values())]
        stamps = {file: (of_file, *links[file]) for file, (_, of_file) in identified.items()}
        return Weights(f"weights-{fingerprint(roles)}", "", name, path, digests, stamps, source, files_of)

    def weights_place(self, name: str) -> Path:
        """Return the folder or file of weights; a name like `owner/model` that nobody placed is that of the model hub."""
        if not self._is_of_hub(name):
            return self.places.place("weights", name)
        return of_hub(name, self._download)

    def check(self, datasets: Iterable[tuple[str, Any]], weights: Iterable[str], served: str = "") -> None:
        """Find what is missing or wrong at a glance, before anything large is read, asked for or loaded.

        Where the store's memory may stand in for something, not everything is needed: only what the command line says is
        checked; and nothing where it may stand in for all, as nothing is made then, or a piece whose inputs are known.

        Args:
            datasets: names of data sets, each with its questions (see `videos`).
            weights: names of weights.
            served: name of the model that answers at a server; empty: no server is asked.

        Raises:
            MissingSourceError: no path is given, nothing is there, or none of a data set's videos is.
        """
        if set(KINDS) <= set(self._remembered_kinds):
            return
        for name, questions in datasets:
            source = f"videos {name} {questions.id}"
            if not self._is_checked("videos", name) or self._remembered_id(source, "videos", name) is not None:
                continue
            folder = self._video_folder(name)
            problem = folder.all_missing(map(folder.find, questions.typed_rows("videos", Video)))
            if problem:
                raise MissingSourceError(problem)
        for name in weights:
            if self._is_checked("weights", name) and not (self._download and self._is_of_hub(name)):
                self.weights_place(name)
        if served and not self._remembered_kinds:
            ServerPlace.of_environment(served)

    def _is_checked(self, kind: str, name: str) -> bool:
        return not self._remembered_kinds or self.places.given(kind, name)

    def missing_videos(self, name: str, videos: Iterable[Video]) -> list[str]:
        """Return the ids of those videos that are not on this machine; raises `MissingSourceError` if no path is given."""
        folder = self._video_folder(name)
        return [video.video_id for video in videos if folder.find(video)[0] is None]

    def videos(self, name: str, questions: Any) -> VideoFiles:
        """Return the files of the videos that `questions` (an artifact with `questions` and `videos` tables) asks about."""
        source = f"videos {name} {questions.id}"
        if questions.id is None or not questions.store.exists(questions.id):
            return VideoFiles(None, questions.problem or "waits for list_questions")
        try:
            folder = self._video_folder(name)
        except MissingSourceError as error:
            return VideoFiles(self._remembered(source, "videos", name), str(error), source=source)
        clips: dict[str, set[tuple[str, float | None, float | None]]] = {}
        for asked in questions.typed_rows("questions", Question):
            clips.setdefault(asked.video_id, set()).add((asked.clip_id, asked.start_seconds, asked.end_seconds))
        wanted = sorted(questions.typed_rows("videos", Video), key=lambda video: video.video_id)
        refuse_cut(questions, clips, questions, (video.video_id for video in wanted), "videos")
        log.info("identifying %s by content; only new and changed files are read", counted(len(wanted), "videos"))
        files: list[VideoFile] = []
        logged = time.monotonic()
        for video in self._digests.saving(wanted):
            if time.monotonic() - logged > LOG_EVERY_SECONDS:
                logged = time.monotonic()
                log.info("identified %d of %d videos", len(files), len(wanted))
            path, reason = folder.find(video)
            video_clips = tuple(sorted(clips[video.video_id], key=str))
            files.append(self._video_file(video.video_id, path, reason, video_clips))
        problem = folder.all_missing((file.path, file.reason) for file in files)
        if problem:
            return VideoFiles(None, problem, source=source)
        identity = [[file.video_id, file.digest, Reason(file.reason).code, file.clips] for file in files]
        return VideoFiles(f"videos-{fingerprint(identity)}", "", tuple(files), source)

    def _is_of_hub(self, name: str) -> bool:
        return "/" in name and self.places.configured("weights", name) is None

    def _video_folder(self, name: str) -> VideoFolder:
        place = self.places.place("videos", name)
        if not place.is_dir():
            raise MissingSourceError(f"the videos {name!r} should be in a folder, but {place} is a file")
        return VideoFolder(place)

    def _video_file(
        self, video_id: str, path: Path | None, reason: str, clips: tuple[tuple[str, float | None, float | None], ...]
    ) -> VideoFile:
        if path is None:
            return VideoFile(video_id, None, None, reason, clips)
        try:
            digest, of_file = self._digests.identify(path)
            if path.is_dir() and (problem := order_problem(path)):  # part of the identity, as rules of names may change
                return VideoFile(video_id, None, None, problem, clips)
            return VideoFile(video_id, path, digest, reason, clips, of_file)
        except MissingSourceError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in OF_THIS_PROCESS:
                raise MachineError(
                    f"video {video_id!r}: {error}; the same command goes on when the cause is gone"
                ) from error
            reason = str(error).replace(str(path), path.name)  # in which folder of this machine is no part of a row
            return VideoFile(video_id, None, None, f"unreadable: {reason}", clips)

    def _remembered(self, source: str, kind: str, name: str) -> str | None:
        """Return the identity that a source had when something was last made from it, where that may stand in.

        Only where no path is given. A wrong path stays an error.
        """
        id = self._remembered_id(source, kind, name)
        if id is not None:
            log.warning("%s %r: not on this machine; taken to be %s, as this store last saw them", kind, name, id)
        return id

    def _remembered_id(self, source: str, kind: str, name: str) -> str | None:
        if self.places.configured(kind, name) is not None:
            return None
        if kind in self._remembered_kinds:
            return self._digests.remembered(source)
        return self._digests.remembered_below(source) if kind == "videos" else None
