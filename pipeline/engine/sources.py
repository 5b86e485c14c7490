"""Sources, the external data and weights: named in the recipe, located on this machine, identified by content.

A source whose files are missing has a `problem` and no id. On request (`remembered`), it has the id of its last use instead:
for a plan, a piece of an artifact with a known id, and a stage that reads no videos.
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
from pipeline.datasets.readers.score_files import files_of_scores
from pipeline.datasets.readers.subtitles import subtitle_files
from pipeline.datasets.registry import adapter_named
from pipeline.engine.joined import refuse_cut
from pipeline.engine.places import KINDS, PlaceLookup, ServerPlace
from pipeline.engine.progress import LOG_EVERY_SECONDS
from pipeline.engine.weights import Weights, links_to, of_hub
from pipeline.reasons import Reason
from pipeline.video.image_names import order_problem
from pipeline.video.video_folder import VideoFolder

log = logging.getLogger("sevila")

RESOURCE_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # of process or system, not of a file


@dataclass(frozen=True)
class AnnotationFiles:
    """The annotation files of one split of a data set, or files of scores; `path` is the configured folder or file.

    `digests` are the files' SHA-256; `source` is the key under which the store remembers the id. `subtitles` are the SHA-256 of
    subtitle files, not all of which are read, and `subtitle_names` their names.
    """

    id: str | None
    problem: str = ""
    path: Path | None = None
    digests: Mapping[Path, str] = field(default_factory=dict)
    source: str = ""
    subtitles: Mapping[Path, str] = field(default_factory=dict)
    subtitle_names: Mapping[Path, str] = field(default_factory=dict)

    def refuse_others(self, read: Mapping[Path, str]) -> None:
        """Raise `MissingSourceError` if the SHA-256 of the files read differ from those in the id."""
        known = {**self.subtitles, **self.digests}
        others = {file for file in read.keys() | self.digests if read.get(file) != known.get(file)}
        if others:
            raise MissingSourceError(
                f"{', '.join(sorted(map(str, others)))}: replaced between being identified and being read; run again"
            )


@dataclass(frozen=True)
class VideoFile:
    """One video of the questions: its path and SHA-256, or the `reason` why it is missing, and the clips asked about.

    `clips` are (clip_id, start_seconds, end_seconds), with None as bounds for the whole video.
    """

    video_id: str
    path: Path | None
    digest: str | None
    reason: str
    clips: tuple[tuple[str, float | None, float | None], ...]
    stamp: tuple[int, ...] = ()  # size, times and inode when the digest was taken


@dataclass(frozen=True)
class VideoFiles:
    """The videos of a set of questions, identified by contents and clips, not by the questions' text."""

    id: str | None
    problem: str = ""
    videos: tuple[VideoFile, ...] = ()
    source: str = ""


class Sources:
    """Locates named data and weights on this machine.

    `remembered` are the kinds of sources that may use their remembered id if no path is configured. A run uses none, because
    its numbers must be those of existing files. Ids of videos remembered by a store below are always used.
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
        """Return the annotation files of one split of a data set, as its adapter names them, optionally with subtitles."""
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
        """Return files of imported scores."""
        source = f"scores {name}"
        try:
            path = self.places.place("scores", name)
            digests = {file: self._digests.digest(file) for file in files_of_scores(path)}
        except MissingSourceError as error:
            return AnnotationFiles(self._remembered(source, "scores", name), str(error), source=source)
        self._digests.save()
        return AnnotationFiles(f"scores-{fingerprint(list(digests.values()))}", "", path, digests, source)

    def weights(self, name: str, files_of: Callable[[Path], list[Path]] = checkpoint_files) -> Weights:
        """Return a set of weights: a file, or the files of a folder that loading opens, as listed by `files_of`."""
        source = f"weights {name}"
        try:
            path = self.weights_place(name)
            # Resolved, because a link to the folder may be switched before it is loaded.
            path = path.resolve() if path.is_dir() else path
            links = {file: links_to(file) for file in files_of(path)}
            identified = {file: self._digests.identify(file) for file in links}
            refuse_downloads_gone_wrong(identified)
        except (MissingSourceError, CheckpointError, OSError) as error:
            return Weights(self._remembered(source, "weights", name), str(error), name, source=source)
        self._digests.save()
        digests = {file.name: digest for file, (digest, _) in identified.items()}
        # By role, not by name: the id is the same for a renamed checkpoint, or with a README beside it.
        roles = [digests.get("config.json"), digests.get("tokenizer.json"), sorted(digests.values())]
        stamps = {file: (of_file, *links[file]) for file, (_, of_file) in identified.items()}
        return Weights(f"weights-{fingerprint(roles)}", "", name, path, digests, stamps, source, files_of)

    def weights_place(self, name: str) -> Path:
        """Return the folder or file of weights; a name like `owner/model` without a place refers to the Hugging Face Hub."""
        if not self._is_of_hub(name):
            return self.places.place("weights", name)
        return of_hub(name, self._download)

    def check(self, datasets: Iterable[tuple[str, Any]], weights: Iterable[str], served: str = "") -> None:
        """Check the presence of sources, before anything large is read, requested or loaded.

        With some remembered kinds, only places on the command line are checked. With all kinds remembered, nothing is checked:
        either nothing is built, or a piece whose inputs are known.

        Args:
            datasets: names of data sets, each with its questions (see `videos`).
            weights: names of weights.
            served: name of the model on a server; empty: none.

        Raises:
            MissingSourceError: no path is configured, the path does not exist, or all videos of a data set are missing.
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
        """Return the ids of videos missing on this machine; raise `MissingSourceError` if no path is configured."""
        folder = self._video_folder(name)
        return [video.video_id for video in videos if folder.find(video)[0] is None]

    def videos(self, name: str, questions: Any) -> VideoFiles:
        """Return the video files of `questions`, an artifact with tables `questions` and `videos`."""
        source = f"videos {name} {questions.id}"
        if questions.id is None or not questions.store.exists(questions.id):
            return VideoFiles(None, questions.problem or "waits for list_questions")
        try:
            folder = self._video_folder(name)
        except MissingSourceError as error:
            return VideoFiles(self._remembered(source, "videos", name), str(error), source=source)
        clips: dict[str, set[tuple[str, float | None, float | None]]] = {}
        for question in questions.typed_rows("questions", Question):
            clip = (question.clip_id, question.start_seconds, question.end_seconds)
            clips.setdefault(question.video_id, set()).add(clip)
        videos = sorted(questions.typed_rows("videos", Video), key=lambda video: video.video_id)
        refuse_cut(questions, clips, questions, [video.video_id for video in videos], "videos")
        log.info("identifying %s by content; only new and changed files are read", counted(len(videos), "videos"))
        files: list[VideoFile] = []
        logged = time.monotonic()
        for video in self._digests.saving(videos):
            if time.monotonic() - logged > LOG_EVERY_SECONDS:
                logged = time.monotonic()
                log.info("identified %d of %d videos", len(files), len(videos))
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
            # The code of the problem is part of the id, as the rules may change.
            if path.is_dir() and (problem := order_problem(path)):
                return VideoFile(video_id, None, None, problem, clips)
            return VideoFile(video_id, path, digest, reason, clips, of_file)
        except MissingSourceError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in RESOURCE_ERRORS:
                raise MachineError(
                    f"video {video_id!r}: {error}; the same command resumes when the cause is gone"
                ) from error
            reason = str(error).replace(str(path), path.name)  # rows must not depend on this machine's folders
            return VideoFile(video_id, None, None, f"unreadable: {reason}", clips)

    def _remembered(self, source: str, kind: str, name: str) -> str | None:
        """Return the id of a source's last use if its kind is remembered, and log a warning.

        Only if no path is configured: a wrong path stays an error.
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
