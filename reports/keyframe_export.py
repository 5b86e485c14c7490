"""Keyframes for other models: as a table, as AKS's list of frame lists, as images, or as short videos of just these frames."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil

from cache.errors import SevilaError
from cache.files import write_atomically, write_for_user
from cache.fingerprint import fingerprint
from cache.store import Store
from cache.tables import Schema, write_rows
from cache.untrusted import is_name
from pipeline.engine.joined import typed_rows_of_all
from pipeline.engine.progress import count_bar
from pipeline.engine.sources import Sources, VideoFile
from pipeline.selection.keyframes import ChosenFrames
from pipeline.video.keyframe_files import WantedFile, WantedFiles, in_processes, write_files
from reports.named_runs import newest_of_run
from stages.list_questions import Questions
from stages.sample_frames import Frames
from stages.select_keyframes import Keyframes

log = logging.getLogger("sevila")

Pictures = Literal["images", "clips", "lmms-eval"]
SUFFIXES: dict[Pictures, str] = {"images": ".jpg", "clips": ".mp4", "lmms-eval": ".mp4"}
SHOWN = 5  # videos that gave nothing
NOTE, LIST = "export.json", "keyframes.json"  # what a folder holds, and which files are whose
CLIPS = "clips"  # where a task for a harness has its clips
OPEN_CLIPS = 64  # written at once by a process, which may usually have 1024 files open
READABLE = 80  # characters of a question's id in the name of its file

TABLE = Schema(
    1,
    question_id="string",
    video_id="string",
    question="string",
    frame_index="int64",  # in the video, from 0
    seconds="float64",
    score="float64",  # what the frame was chosen by; null where no score was looked at
    rank="int32",  # of the score among the question's keyframes, from 1; null without scores
)


class KeyframesOfRun:
    """The keyframes of one artifact of select_keyframes, in the order of the annotations."""

    def __init__(self, store: Store, given: str) -> None:
        """Open those of a named run, or of the newest artifact that `given` begins; raises `StoreError` as `newest_of_run`."""
        keyframes = newest_of_run(store, given, Keyframes, "select_keyframes")
        record = keyframes.record
        self.id = record.id
        self.questions = Questions(store, record.inputs["questions"])
        self.frames = Frames(store, record.inputs["frames"])
        rows = typed_rows_of_all(keyframes, "keyframes", self.questions, ChosenFrames)
        by_question = {row.question_id: row for row in rows}
        self.texts = {question.question_id: question.question for question in self.questions.questions()}
        self.rows = [by_question[question_id] for question_id in self.texts]

    def warn_of_empty(self) -> None:
        """Log how many questions have no keyframes, and why."""
        empty = [row.reason.code for row in self.rows if not row.frame_indices]
        if empty:
            reasons = ", ".join(f"{empty.count(code)} {code}" for code in sorted(set(empty)))
            log.warning("%s: %d of %d questions have no keyframes: %s", self.id, len(empty), len(self.rows), reasons)


def write_table(keyframes: KeyframesOfRun, path: Path) -> None:
    """Write one row a keyframe: Parquet, or JSON where the name ends so."""
    rows = []
    for row in keyframes.rows:
        ranks = (-np.array(row.scores)).argsort(kind="stable").argsort(kind="stable") + 1
        for place, (frame_index, seconds) in enumerate(zip(row.frame_indices, row.seconds, strict=True)):
            score, rank = (row.scores[place], int(ranks[place])) if row.scores else (None, None)
            of_question = (row.question_id, row.video_id, keyframes.texts[row.question_id])
            values = (*of_question, frame_index, seconds, score, rank)
            rows.append(dict(zip(TABLE.columns, values, strict=True)))
    if path.suffix.lower() == ".json":
        write_for_user(path, _json(rows))
    else:
        target = path.resolve()
        if target.exists() and not target.is_file():
            raise SevilaError(
                f"{path}: is no file; Parquet is written to a file, JSON (.json) to a pipe or device, too"
            )
        write_rows(target, TABLE, rows)


def write_pictures(
    keyframes: KeyframesOfRun, sources: Sources, folder: Path, kind: Pictures, height: int | None, processes: int
) -> dict[str, str]:
    """Write each question's keyframes as images or as one video, and `keyframes.json`, which says which file is whose.

    For lmms-eval the videos lie in a folder of their own, beside which there is room for a task (reports/lmms_task.py).
    Files that are there already are kept: after an interruption the same call goes on.

    Args:
        height: of the pictures in pixels; None for the videos' own.
        processes: videos that are read at the same time.

    Returns:
        Why there are none of a video, by its id.

    Raises:
        MissingSourceError: no path is given for the videos.
        MachineError: a process died.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = _file_names([row.question_id for row in keyframes.rows])
    place = folder / CLIPS if kind == "lmms-eval" else folder
    files = {row.question_id: _files(row, place / names[row.question_id], kind) for row in keyframes.rows}
    requests, failures = _requests(keyframes, sources, files, height)
    _refuse_other_content(keyframes, folder, kind, height)
    _remove_parts(folder)
    failures |= _write(requests, processes)
    described = [
        {
            "question_id": row.question_id,
            "video_id": row.video_id,
            "question": keyframes.texts[row.question_id],
            "frame_indices": row.frame_indices,
            "seconds": row.seconds,
            "files": [file.path.relative_to(folder).as_posix() for file in files[row.question_id]],
        }
        for row in keyframes.rows
        if row.frame_indices and row.video_id not in failures
    ]
    write_atomically(folder / LIST, _json(described))
    return failures


def failures_text(failures: dict[str, str]) -> str:
    """Return which videos gave nothing, for people."""
    shown = [f"{video_id}: {reason}" for video_id, reason in list(failures.items())[:SHOWN]]
    more = [f"and {len(failures) - SHOWN} more"] if len(failures) > SHOWN else []
    n_videos = f"{len(failures)} video{'s' * (len(failures) > 1)}"
    return "\n".join([f"{n_videos} gave no keyframes; run again when all can be read", *shown, *more])


def _file_names(question_ids: Sequence[str]) -> dict[str, str]:
    """Return a name for the files of each question: its id, where that is one which no other file has on any file system."""
    alike = Counter(question_id.lower() for question_id in question_ids)
    names = {}
    for question_id in question_ids:
        is_taken = alike[question_id.lower()] > 1 or question_id.lower() in (NOTE, LIST)
        readable = re.sub("[^A-Za-z0-9_-]+", "_", question_id)[:READABLE]
        is_good = is_name(question_id) and not is_taken
        names[question_id] = question_id if is_good else f"{readable}-{fingerprint(question_id)[:8]}"
    return names


def _files(row: ChosenFrames, place: Path, kind: Pictures) -> list[WantedFile]:
    if not row.frame_indices:
        return []
    if kind != "images":
        return [WantedFile(place.with_name(f"{place.name}{SUFFIXES[kind]}"), tuple(row.frame_indices))]
    return [WantedFile(place / f"{index:08d}{SUFFIXES[kind]}", (index,)) for index in sorted(set(row.frame_indices))]


def _refuse_other_content(keyframes: KeyframesOfRun, folder: Path, kind: Pictures, height: int | None) -> None:
    """Raise `SevilaError` if the folder holds other keyframes, whose files would be taken for these."""
    note, described = folder / NOTE, {"keyframes": keyframes.id, "as": kind, "height": height}
    content = _json([described])
    if note.exists() and note.read_bytes() != content:
        there = note.read_text(errors="replace").strip("[]\n ")
        raise SevilaError(f"{folder}: holds the export {there}, and not {json.dumps(described)}; give another folder")
    if not note.exists() and any(not path.name.endswith(".part") for path in folder.iterdir()):
        raise SevilaError(f"{folder}: is not empty, and no keyframes of ours are in it; give another folder")
    write_atomically(note, content)


def _remove_parts(folder: Path) -> None:
    """Remove what processes that are no more were writing; what is written meanwhile stays."""
    for part in folder.rglob("*.part"):
        *_, pid, _ = ["", "", *part.name.split(".")]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            part.unlink(missing_ok=True)


def _requests(
    keyframes: KeyframesOfRun, sources: Sources, files: dict[str, list[WantedFile]], height: int | None
) -> tuple[list[tuple[str, WantedFiles]], dict[str, str]]:
    """Return what is still to be written, by video, and why there is nothing of the others."""
    sampled = {video.video_id: video.content_digest for video in keyframes.frames.videos()}
    files_of_videos = sources.videos(keyframes.questions.record.config["dataset"], keyframes.questions)
    if files_of_videos.problem:
        raise SevilaError(files_of_videos.problem)
    videos = {video.video_id: video for video in files_of_videos.videos}
    files_left: dict[str, list[WantedFile]] = defaultdict(list)
    for row in keyframes.rows:
        files_left[row.video_id] += [file for file in files[row.question_id] if not file.path.exists()]
    requests: list[tuple[str, WantedFiles]] = []
    failures: dict[str, str] = {}
    for video_id, of_video in files_left.items():
        if not of_video:
            continue
        video = videos[video_id]
        if problem := _problem(video, sampled[video_id]):
            failures[video_id] = problem
            continue
        assert video.path is not None
        n_at_once = OPEN_CLIPS if of_video[0].path.suffix == ".mp4" else len(of_video)
        for start in range(0, len(of_video), n_at_once):
            at_once = tuple(of_video[start : start + n_at_once])
            requests.append((video_id, WantedFiles(video.path, video.digest, video.stamp, at_once, height)))
    return requests, failures


def _problem(video: VideoFile, digest: str | None) -> str:
    if video.path is None:
        return video.reason
    return "" if video.digest == digest else f"{video.path}: other bytes than those that its frames were sampled from"


def _write(requests: list[tuple[str, WantedFiles]], processes: int) -> dict[str, str]:
    for _, request in requests:
        for folder in {file.path.parent for file in request.files}:
            folder.mkdir(parents=True, exist_ok=True)
    reasons = {}
    written = in_processes(write_files, (request for _, request in requests), processes)
    with count_bar("keyframes", len(requests), "video") as advance:
        for (video_id, _), reason in zip(requests, written, strict=True):
            advance(1)
            if reason:
                reasons[video_id] = reason
    return reasons


def _json(rows: list[dict[str, Any]]) -> bytes:
    """Return a list with a row a line."""
    return ("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n").encode()
