"""The moment-retrieval benchmark's files (QVHighlights, JSON lines): annotations and predictions, checked.

They are other people's, so every number is looked at: an error says the line, what was found and what was wanted.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cache.errors import SchemaError
from pipeline.datasets.rows import Row, read_jsonl
from pipeline.datasets.values import CLIP_SECONDS, ROUNDING_SECONDS, outside_video

log = logging.getLogger("sevila")

N_ANNOTATORS = 3
PROBLEMS_SHOWN = 5

QueryId = int | str
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Annotation:
    """What is true of one query: windows [G, 2] in seconds; ratings [C, 3] of every clip of the video, None if not given."""

    qid: QueryId
    video_id: str | None
    duration_seconds: float
    windows: Floats
    ratings: Floats | None


@dataclass(frozen=True)
class Prediction:
    """What a model says of one query: windows [P, 3] (start, end, score) in the file's order, saliency [C]; None: not given."""

    qid: QueryId
    video_id: str | None
    windows: Floats | None
    saliency: Floats | None


class _Problem(Exception):
    """What is wrong with one line."""


def read_annotations(path: Path) -> list[Annotation]:
    """Read a split's annotations.

    Raises:
        SchemaError: lists the lines at fault: not JSON, a query twice, a value of another type, windows reversed or outside the
            video; or says that the split has no windows, as the benchmark's test split.
        MissingSourceError: the file cannot be read.
    """
    rows = read_jsonl(path).rows
    if not any("relevant_windows" in row.cells for row in rows):
        raise SchemaError(
            f"{path}: no line has relevant_windows (found: {', '.join(rows[0].cells)}); this is a split whose answers are "
            "not published, as the benchmark's test split, or another kind of file; wanted annotations such as those of val"
        )
    return _each_line(path, _annotation)


def read_predictions(path: Path) -> list[Prediction]:
    """Read a model's predictions; raises like `read_annotations`."""
    predictions = _each_line(path, _prediction)
    if all(prediction.windows is None and prediction.saliency is None for prediction in predictions):
        raise SchemaError(
            f"{path}: no line has pred_relevant_windows or pred_saliency_scores "
            f"(found: {', '.join(read_jsonl(path).columns)}); one of them is wanted"
        )
    for name, values in (
        ("pred_relevant_windows", [prediction.windows for prediction in predictions]),
        ("pred_saliency_scores", [prediction.saliency for prediction in predictions]),
    ):
        without = [prediction.qid for prediction, value in zip(predictions, values, strict=True) if value is None]
        if 0 < len(without) < len(predictions):
            raise SchemaError(
                f"{path}: {len(without)} of {len(predictions)} queries have no {name}: qid {_some(without)}; "
                "wanted it for all queries, or for none"
            )
    return predictions


def matched(
    predictions: Sequence[Prediction], annotations: Sequence[Annotation], allow_outside: bool = False
) -> list[tuple[Prediction, Annotation]]:
    """Pair predictions with annotations by query, in the predictions' order, and hold windows against the video's length.

    Windows that reach past the end of a video shorter than the benchmark's 150 s are told in a warning and kept as they are.

    Raises:
        SchemaError: queries missing from either side, another video, windows outside the video unless `allow_outside`.
    """
    by_qid = {annotation.qid: annotation for annotation in annotations}
    predicted = {prediction.qid for prediction in predictions}
    missing = [qid for qid in by_qid if qid not in predicted]
    unknown = [prediction.qid for prediction in predictions if prediction.qid not in by_qid]
    if missing or unknown:
        raise SchemaError(
            f"predictions and annotations have different queries: {len(missing)} of {len(by_qid)} are not predicted "
            f"(qid {_some(missing)}), {len(unknown)} of {len(predicted)} are not annotated (qid {_some(unknown)}); "
            "wanted one prediction for each query of the same split"
        )
    pairs = [(prediction, by_qid[prediction.qid]) for prediction in predictions]
    problems = []
    reach_seconds = []
    for prediction, annotation in pairs:
        if prediction.video_id is not None and annotation.video_id not in (None, prediction.video_id):
            problems.append(
                f"qid {prediction.qid!r} is about {prediction.video_id!r}, annotated is {annotation.video_id!r}"
            )
        for start, end, _ in (prediction.windows if prediction.windows is not None else np.empty((0, 3))).tolist():
            beyond = end - annotation.duration_seconds
            if not allow_outside and outside_video(start, end, annotation.duration_seconds):
                problems.append(
                    f"qid {prediction.qid!r}: window {start:g} to {end:g} s lies outside its video "
                    f"(0 to {annotation.duration_seconds:g} s); cut it, or pass --allow-outside to evaluate it as it is"
                )
            elif beyond > ROUNDING_SECONDS:
                reach_seconds.append(beyond)
    _raise_if_any("predictions do not fit the annotations", problems)
    if reach_seconds:
        log.warning(
            "%d predicted windows reach past the end of their video, by up to %g s; evaluated as they are",
            len(reach_seconds),
            max(reach_seconds),
        )
    return pairs


Record = TypeVar("Record", Annotation, Prediction)


def _each_line(path: Path, parse: Callable[[dict[str, Any]], Record]) -> list[Record]:
    found = read_jsonl(path)
    problems = [(bad.line, f"line {bad.line}: {bad.reason}") for bad in found.rejected]
    records: list[Record] = []
    line_of: dict[QueryId, int] = {}
    for row in found.rows:
        try:
            record = parse(row.cells)
            first = line_of.setdefault(record.qid, row.line)
            if first != row.line:
                raise _Problem(f"query {record.qid!r} is already on line {first}; one line per query wanted")
            records.append(record)
        except _Problem as problem:
            problems.append((row.line, f"line {row.line}{_about(row)}: {problem}"))
    _raise_if_any(str(path), [text for _, text in sorted(problems)])
    return records


def _about(row: Row) -> str:
    return f" (qid {row.cells['qid']!r})" if isinstance(row.cells.get("qid"), (int, str)) else ""


def _raise_if_any(where: str, problems: Sequence[str]) -> None:
    if problems:
        more = f"; and {len(problems) - PROBLEMS_SHOWN} more" if len(problems) > PROBLEMS_SHOWN else ""
        raise SchemaError(f"{where}: {'; '.join(problems[:PROBLEMS_SHOWN])}{more}")


def _annotation(cells: dict[str, Any]) -> Annotation:
    duration_seconds = _number(_wanted(cells, "duration"), "duration")
    if duration_seconds <= 0:
        raise _Problem(f"duration is {duration_seconds:g}; seconds above 0 wanted")
    windows = _table(_wanted(cells, "relevant_windows"), "relevant_windows", ("start", "end"))
    if not len(windows):
        raise _Problem("relevant_windows is empty; at least one window wanted")
    for start, end in windows.tolist():
        if end <= start:
            raise _Problem(f"relevant window {start:g} to {end:g} s; a start before the end wanted")
        if outside_video(start, end, duration_seconds):
            raise _Problem(
                f"relevant window {start:g} to {end:g} s lies outside the video (0 to {duration_seconds:g} s)"
            )
    return Annotation(_qid(cells), _video_id(cells), duration_seconds, windows, _ratings(cells, duration_seconds))


def _ratings(cells: dict[str, Any], duration_seconds: float) -> Floats | None:
    """Return the ratings of every clip of the video, [C, 3]; clips that are not listed have 0."""
    if "relevant_clip_ids" not in cells or "saliency_scores" not in cells:
        return None
    numbers, n_clips = cells["relevant_clip_ids"], int(duration_seconds / CLIP_SECONDS)
    given = _table(cells["saliency_scores"], "saliency_scores", tuple(f"rating {n + 1}" for n in range(N_ANNOTATORS)))
    if not isinstance(numbers, list) or len(numbers) != len(given):
        raise _Problem(
            f"{len(given)} saliency_scores for relevant_clip_ids {_short(numbers)}; one for each clip wanted"
        )
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < n_clips:
            raise _Problem(f"relevant_clip_ids has {_short(number)}; numbers from 0 to {n_clips - 1} wanted")
    ratings = np.zeros((n_clips, N_ANNOTATORS))
    ratings[numbers] = given
    return ratings


def _prediction(cells: dict[str, Any]) -> Prediction:
    windows = saliency = None
    if "pred_relevant_windows" in cells:
        windows = _table(cells["pred_relevant_windows"], "pred_relevant_windows", ("start", "end", "score"))
        for start, end, _ in windows.tolist():
            if end < start:
                raise _Problem(f"predicted window {start:g} to {end:g} s is reversed; start <= end wanted")
    if "pred_saliency_scores" in cells:
        scores = cells["pred_saliency_scores"]
        if not isinstance(scores, list):
            raise _Problem(f"pred_saliency_scores is {_short(scores)}; a list of one number per clip wanted")
        saliency = np.array([_number(score, "pred_saliency_scores") for score in scores])
    return Prediction(_qid(cells), _video_id(cells), windows, saliency)


def _wanted(cells: dict[str, Any], name: str) -> Any:
    if name not in cells:
        raise _Problem(f"no {name}; found {', '.join(cells) or 'nothing'}")
    return cells[name]


def _qid(cells: dict[str, Any]) -> QueryId:
    qid = _wanted(cells, "qid")
    if isinstance(qid, bool) or not isinstance(qid, (int, str)) or qid == "":
        raise _Problem(f"qid is {_short(qid)}; an integer or a text wanted")
    return qid


def _video_id(cells: dict[str, Any]) -> str | None:
    video_id = cells.get("vid")
    if video_id is not None and not isinstance(video_id, str):
        raise _Problem(f"vid is {_short(video_id)}; a text wanted")
    return video_id


def _table(value: Any, name: str, columns: tuple[str, ...]) -> Floats:
    """Return a list of lists of numbers as an array [n, columns]."""
    if not isinstance(value, list):
        raise _Problem(f"{name} is {_short(value)}; a list of [{', '.join(columns)}] wanted")
    for row in value:
        if not isinstance(row, list) or len(row) != len(columns):
            raise _Problem(f"{name} has {_short(row)}; [{', '.join(columns)}] wanted")
    numbers = [[_number(cell, f"{name}, {column}") for cell, column in zip(row, columns, strict=True)] for row in value]
    return np.array(numbers, np.float64).reshape(-1, len(columns))


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _Problem(f"{name} is {_short(value)}; a number wanted")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _Problem(f"{name} is {_short(value)}; a finite number wanted")
    return number


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _some(qids: Sequence[QueryId]) -> str:
    return (
        ", ".join(map(repr, qids[:PROBLEMS_SHOWN])) + (", ..." if len(qids) > PROBLEMS_SHOWN else "") if qids else "-"
    )
