"""Export of keyframes for other models: as a table, as images, or as short videos that contain only the keyframes."""

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
from cache.printable import counted
from cache.store import Store
from cache.tables import Schema, write_rows
from cache.untrusted import is_name
from pipeline.engine.joined import typed_rows_of_all
from pipeline.engine.progress import count_bar
from pipeline.engine.sources import Sources
from pipeline.selection.keyframes import ChosenFrames
from pipeline.video.keyframe_files import KeyframeFile, KeyframeFiles, in_processes, write_files
from reports.named_runs import newest_of_run
from stages.list_questions import Questions
from stages.sample_frames import Frames
from stages.select_keyframes import Keyframes

log = logging.getLogger("sevila")

Pictures = Literal["images", "clips", "lmms-eval"]
SUFFIXES: dict[Pictures, str] = {"images": ".jpg", "clips": ".mp4", "lmms-eval": ".mp4"}
FAILURES_SHOWN = 5
NOTE, LIST = "export.json", "keyframes.json"  # what the folder was exported from; the files by question
CLIPS = "clips"  # subfolder of the clips of an lmms-eval task
OPEN_CLIPS = 64  # files that a process writes at once; the usual limit of open files is 1024
MAX_ID_CHARACTERS = 80  # of a question's id in a file name

TABLE = Schema(
    1,
    question_id="string",
    video_id="string",
    question="string",
    frame_index="int64",  # in the video, from 0
    seconds="float64",
    score="float64",  # by which the frame was selected; null if the selector uses no scores
    rank="int32",  # of the score among the question's keyframes, from 1; null without scores
)


class KeyframesOfRun:
    """The keyframes of one artifact of select_keyframes, in the order of the annotations."""

    def __init__(self, store: Store, name: str) -> None:
        """Open the keyframes of a named run, or the newest artifact with this id prefix; raises `StoreError`."""
        keyframes = newest_of_run(store, name, Keyframes, "select_keyframes")
        record = keyframes.record
        self.id = record.id
        self.questions = Questions(store, record.inputs["questions"])
        self.frames = Frames(store, record.inputs["frames"])
        rows = typed_rows_of_all(keyframes, "keyframes", self.questions, ChosenFrames)
        by_question = {row.question_id: row for row in rows}
        self.texts = {question.question_id: question.question for question in self.questions.questions()}
        self.rows = [by_question[question_id] for question_id in self.texts]

    def warn_of_empty(self) -> None:
        """Log the number of questions without keyframes, by reason."""
        empty = [row.reason.code for row in self.rows if not row.frame_indices]
        if empty:
            reasons = ", ".join(f"{empty.count(code)} {code}" for code in sorted(set(empty)))
            log.warning("%s: %d of %d questions have no keyframes: %s", self.id, len(empty), len(self.rows), reasons)


def write_table(keyframes: KeyframesOfRun, path: Path) -> None:
    """Write one row per keyframe, as JSON if the name ends in .json, else as Parquet."""
    rows = []
    for row in keyframes.rows:
        ranks = (-np.array(row.scores)).argsort(kind="stable").argsort(kind="stable") + 1
        for number, (frame_index, seconds) in enumerate(zip(row.frame_indices, row.seconds, strict=True)):
            score, rank = (row.scores[number], int(ranks[number])) if row.scores else (None, None)
            values = (
                row.question_id,
                row.video_id,
                keyframes.texts[row.question_id],
                frame_index,
                seconds,
                score,
                rank,
            )
            rows.append(dict(zip(TABLE.columns, values, strict=True)))
    if path.suffix.lower() == ".json":
        write_for_user(path, _json(rows))
    else:
        target = path.resolve()
        if target.exists() and not target.is_file():
            raise SevilaError(
                f"{path}: is not a regular file; Parquet needs one, JSON (.json) can also be written to a pipe or device"
            )
        write_rows(target, TABLE, rows)


def write_pictures(
    keyframes: KeyframesOfRun, sources: Sources, folder: Path, kind: Pictures, height: int | None, processes: int
) -> dict[str, str]:
    """Write each question's keyframes as images or as one video, and `keyframes.json` with the files of each question.

    For lmms-eval the videos are written into a subfolder, next to the files of the task (reports/lmms_task.py).
    Existing files are kept, so that the same call resumes an interrupted export.

    Args:
        height: Height of the pictures in pixels; None for that of the video.
        processes: Number of videos that are read in parallel.

    Returns:
        The reasons of the videos without keyframes, by video id.

    Raises:
        MissingSourceError: The videos have no path.
        MachineError: A process died.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = _file_names([row.question_id for row in keyframes.rows])
    base = folder / CLIPS if kind == "lmms-eval" else folder
    files = {row.question_id: _files(row, base / names[row.question_id], kind) for row in keyframes.rows}
    requests, failures = _requests(keyframes, sources, files, height)
    _refuse_other_content(keyframes, folder, kind, height)
    _remove_parts(folder)
    failures |= _write(requests, processes)
    entries = [
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
    write_atomically(folder / LIST, _json(entries))
    return failures


def failures_text(failures: dict[str, str]) -> str:
    """Return the failed videos with their reasons as text."""
    lines = [f"{counted(len(failures), 'videos')} failed; run the command again when they can be read"]
    lines += [f"{video_id}: {reason}" for video_id, reason in list(failures.items())[:FAILURES_SHOWN]]
    lines += [f"and {len(failures) - FAILURES_SHOWN} more"] if len(failures) > FAILURES_SHOWN else []
    return "\n".join(lines)


def _file_names(question_ids: Sequence[str]) -> dict[str, str]:
    """Return a file name for each question: its id if that is valid and unique, also on case-insensitive file systems."""
    counts = Counter(question_id.lower() for question_id in question_ids)
    names = {}
    for question_id in question_ids:
        is_unique = counts[question_id.lower()] == 1 and question_id.lower() not in (NOTE, LIST)
        readable = re.sub("[^A-Za-z0-9_-]+", "_", question_id)[:MAX_ID_CHARACTERS]
        is_valid = is_name(question_id) and is_unique
        names[question_id] = question_id if is_valid else f"{readable}-{fingerprint(question_id)[:8]}"
    return names


def _files(row: ChosenFrames, path: Path, kind: Pictures) -> list[KeyframeFile]:
    if not row.frame_indices:
        return []
    if kind != "images":
        return [KeyframeFile(path.with_name(f"{path.name}{SUFFIXES[kind]}"), tuple(row.frame_indices))]
    return [KeyframeFile(path / f"{index:08d}{SUFFIXES[kind]}", (index,)) for index in sorted(set(row.frame_indices))]


def _refuse_other_content(keyframes: KeyframesOfRun, folder: Path, kind: Pictures, height: int | None) -> None:
    """Raise `SevilaError` if the folder holds another export, whose files would be mistaken for these."""
    note, export = folder / NOTE, {"keyframes": keyframes.id, "as": kind, "height": height}
    content = _json([export])
    if note.exists() and note.read_bytes() != content:
        existing = note.read_text(errors="replace").strip("[]\n ")
        raise SevilaError(f"{folder}: holds the export {existing}; expected {json.dumps(export)} (give another folder)")
    if not note.exists() and any(not path.name.endswith(".part") for path in folder.iterdir()):
        raise SevilaError(f"{folder}: is not empty and holds no export of keyframes; give another folder")
    write_atomically(note, content)


def _remove_parts(folder: Path) -> None:
    """Remove partial files whose process has ended; those of running processes stay."""
    for part in folder.rglob("*.part"):
        *_, pid, _ = ["", "", *part.name.split(".")]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            part.unlink(missing_ok=True)


def _requests(
    keyframes: KeyframesOfRun, sources: Sources, files: dict[str, list[KeyframeFile]], height: int | None
) -> tuple[list[tuple[str, KeyframeFiles]], dict[str, str]]:
    """Return the files still to be written, by video, and the reasons of the videos that failed."""
    sampled = {video.video_id: video.content_digest for video in keyframes.frames.videos()}
    files_of_videos = sources.videos(keyframes.questions.record.config["dataset"], keyframes.questions)
    if files_of_videos.problem:
        raise SevilaError(files_of_videos.problem)
    videos = {video.video_id: video for video in files_of_videos.videos}
    missing_files: dict[str, list[KeyframeFile]] = defaultdict(list)
    for row in keyframes.rows:
        missing_files[row.video_id] += [file for file in files[row.question_id] if not file.path.exists()]
    requests: list[tuple[str, KeyframeFiles]] = []
    failures: dict[str, str] = {}
    for video_id, missing in missing_files.items():
        if not missing:
            continue
        video = videos[video_id]
        if video.path is None or video.digest != sampled[video_id]:
            failures[video_id] = video.reason or f"{video.path}: content has changed since its frames were sampled"
            continue
        batch_size = OPEN_CLIPS if missing[0].path.suffix == ".mp4" else len(missing)
        for start in range(0, len(missing), batch_size):
            batch = tuple(missing[start : start + batch_size])
            requests.append((video_id, KeyframeFiles(video.path, video.digest, video.stamp, batch, height)))
    return requests, failures


def _write(requests: list[tuple[str, KeyframeFiles]], processes: int) -> dict[str, str]:
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
    """Return a JSON list with one row per line."""
    return ("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n").encode()
