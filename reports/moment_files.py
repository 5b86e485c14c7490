"""Readers of the moment-retrieval benchmark's files (QVHighlights, JSON lines): annotations and predictions.

The files are untrusted input, so every value is checked; an error names the line, the value and what was expected.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cache.errors import SchemaError
from cache.printable import first_of
from pipeline.datasets.qvhighlights import clip_ratings, labelled_moments
from pipeline.datasets.readers.rows import Row, read_jsonl
from pipeline.datasets.readers.values import ROUNDING_SECONDS, BadRow, json_text, outside_video, seconds

log = logging.getLogger("sevila")

PROBLEMS_SHOWN = 5
RATED = {"relevant_clip_ids", "saliency_scores"}

QueryId = int | str
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Annotation:
    """The annotation of a query: true windows [G, 2] in seconds; ratings [C, 3] of the video's clips, None if not given."""

    qid: QueryId
    video_id: str | None
    duration_seconds: float
    windows: Floats
    ratings: Floats | None


@dataclass(frozen=True)
class Prediction:
    """The prediction for a query: windows [P, 3] (start, end, score) in the file's order, saliency [C]; None if not given."""

    qid: QueryId
    video_id: str | None
    windows: Floats | None
    saliency: Floats | None


def read_annotations(path: Path) -> list[Annotation]:
    """Read a split's annotations.

    Raises:
        SchemaError: Lists invalid lines: not JSON, a repeated query, a value of another type, windows reversed or outside the
            video; or reports that the split has no windows, like the benchmark's test split.
        MissingSourceError: The file cannot be read.
    """
    rows = read_jsonl(path).rows
    if not any("relevant_windows" in row.cells for row in rows):
        raise SchemaError(
            f"{path}: found no relevant_windows (only {', '.join(rows[0].cells)}); expected annotations such as those of val "
            "(the answers of the benchmark's test split are not published)"
        )
    return _parsed_lines(path, _annotation)


def read_predictions(path: Path) -> list[Prediction]:
    """Read a model's predictions; raises the errors of `read_annotations`."""
    predictions = _parsed_lines(path, _prediction)
    if all(prediction.windows is None and prediction.saliency is None for prediction in predictions):
        raise SchemaError(
            f"{path}: found neither pred_relevant_windows nor pred_saliency_scores "
            f"(only {', '.join(read_jsonl(path).columns)}); expected one of them"
        )
    for name, values in (
        ("pred_relevant_windows", [prediction.windows for prediction in predictions]),
        ("pred_saliency_scores", [prediction.saliency for prediction in predictions]),
    ):
        missing = [prediction.qid for prediction, value in zip(predictions, values, strict=True) if value is None]
        if 0 < len(missing) < len(predictions):
            raise SchemaError(
                f"{path}: {len(missing)} of {len(predictions)} queries have no {name}: qid {_first_qids(missing)}; "
                "expected it for all queries or for none"
            )
    return predictions


def matched(
    predictions: Sequence[Prediction], annotations: Sequence[Annotation], allow_outside: bool = False
) -> list[tuple[Prediction, Annotation]]:
    """Pair predictions with annotations by query, in the predictions' order, and check windows against the video's length.

    Windows that end after a video shorter than the benchmark's 150 s are kept unchanged, with a warning.

    Raises:
        SchemaError: Queries are missing on either side, videos differ, or (unless `allow_outside`) windows lie outside.
    """
    by_qid = {annotation.qid: annotation for annotation in annotations}
    predicted = {prediction.qid for prediction in predictions}
    missing = [qid for qid in by_qid if qid not in predicted]
    unknown = [prediction.qid for prediction in predictions if prediction.qid not in by_qid]
    if missing or unknown:
        raise SchemaError(
            f"predictions and annotations have different queries: {len(missing)} of {len(by_qid)} are not predicted "
            f"(qid {_first_qids(missing)}), {len(unknown)} of {len(predicted)} are not annotated (qid {_first_qids(unknown)}); "
            "expected one prediction for each query of the same split"
        )
    pairs = [(prediction, by_qid[prediction.qid]) for prediction in predictions]
    _check_windows(pairs, allow_outside)
    return pairs


def _check_windows(pairs: Sequence[tuple[Prediction, Annotation]], allow_outside: bool) -> None:
    problems = []
    seconds_beyond = []
    for prediction, annotation in pairs:
        if prediction.video_id is not None and annotation.video_id not in (None, prediction.video_id):
            problems.append(
                f"qid {prediction.qid!r}: the predicted video is {prediction.video_id!r}, the annotated {annotation.video_id!r}"
            )
        for start, end, _ in (prediction.windows if prediction.windows is not None else np.empty((0, 3))).tolist():
            beyond = end - annotation.duration_seconds
            if not allow_outside and outside_video(start, end, annotation.duration_seconds):
                problems.append(
                    f"qid {prediction.qid!r}: window {start:g} to {end:g} s lies outside its video "
                    f"(0 to {annotation.duration_seconds:g} s); cut it, or pass --allow-outside to evaluate it unchanged"
                )
            elif beyond > ROUNDING_SECONDS:
                seconds_beyond.append(beyond)
    _raise_if_any("predictions do not fit the annotations", problems)
    if seconds_beyond:
        log.warning(
            "%d predicted windows end after their video, by up to %g s; they are evaluated unchanged",
            len(seconds_beyond),
            max(seconds_beyond),
        )


Line = TypeVar("Line", Annotation, Prediction)


def _parsed_lines(path: Path, parse: Callable[[dict[str, Any]], Line]) -> list[Line]:
    table = read_jsonl(path)
    problems = [(bad.line, f"line {bad.line}: {bad.reason}") for bad in table.rejected]
    records: list[Line] = []
    line_of: dict[QueryId, int] = {}
    for row in table.rows:
        try:
            record = parse(row.cells)
            first = line_of.setdefault(record.qid, row.line)
            if first != row.line:
                raise BadRow(f"query {record.qid!r} is already on line {first}; expected one line per query")
            records.append(record)
        except BadRow as problem:
            problems.append((row.line, f"line {row.line}{_qid_label(row)}: {problem}"))
    _raise_if_any(str(path), [text for _, text in sorted(problems)])
    return records


def _qid_label(row: Row) -> str:
    return f" (qid {row.cells['qid']!r})" if isinstance(row.cells.get("qid"), (int, str)) else ""


def _raise_if_any(subject: str, problems: Sequence[str]) -> None:
    if problems:
        n_more = len(problems) - PROBLEMS_SHOWN
        listed = [*problems[:PROBLEMS_SHOWN], *([f"and {n_more} more"] if n_more > 0 else [])]
        raise SchemaError(f"{subject}: {'; '.join(listed)}")


def _annotation(cells: dict[str, Any]) -> Annotation:
    duration_seconds = seconds("duration", _required(cells, "duration"))
    if not duration_seconds > 0:
        raise BadRow(f"duration is {duration_seconds:g}; expected seconds above 0")
    raw_windows = _required(cells, "relevant_windows")
    moments, _ = labelled_moments(cells)
    if not moments:
        raise BadRow("relevant_windows is empty; expected at least one window")
    for moment, (start, end) in zip(moments, raw_windows, strict=True):
        is_changed = (moment.start_seconds, moment.end_seconds) != (float(start), float(end))
        if is_changed or moment.start_seconds == moment.end_seconds:
            raise BadRow(f"relevant window {start} to {end} s; expected a start before the end")
    windows = np.array([(moment.start_seconds, moment.end_seconds) for moment in moments], np.float64)
    ratings = np.array(clip_ratings(cells), np.float64) if cells.keys() >= RATED else None
    return Annotation(_qid(cells), _video_id(cells), duration_seconds, windows, ratings)


def _prediction(cells: dict[str, Any]) -> Prediction:
    windows = saliency = None
    if "pred_relevant_windows" in cells:
        windows = _table(cells["pred_relevant_windows"], "pred_relevant_windows", ("start", "end", "score"))
        for start, end, _ in windows.tolist():
            if end < start:
                raise BadRow(f"predicted window {start:g} to {end:g} s is reversed; expected start <= end")
    if "pred_saliency_scores" in cells:
        scores = cells["pred_saliency_scores"]
        if not isinstance(scores, list):
            raise BadRow(f"pred_saliency_scores is {json_text(scores)}; expected a list of one number per clip")
        saliency = np.array([_number(score, "pred_saliency_scores") for score in scores])
    return Prediction(_qid(cells), _video_id(cells), windows, saliency)


def _required(cells: dict[str, Any], name: str) -> Any:
    if name not in cells:
        raise BadRow(f"no {name}; found only {', '.join(cells) or 'an empty object'}")
    return cells[name]


def _qid(cells: dict[str, Any]) -> QueryId:
    qid = _required(cells, "qid")
    if isinstance(qid, bool) or not isinstance(qid, (int, str)) or qid == "":
        raise BadRow(f"qid is {json_text(qid)}; expected an integer or a string")
    return qid


def _video_id(cells: dict[str, Any]) -> str | None:
    video_id = cells.get("vid")
    if video_id is not None and not isinstance(video_id, str):
        raise BadRow(f"vid is {json_text(video_id)}; expected a string")
    return video_id


def _table(value: Any, name: str, columns: tuple[str, ...]) -> Floats:
    """Return a list of lists of numbers as an array [n, columns]."""
    if not isinstance(value, list):
        raise BadRow(f"{name} is {json_text(value)}; expected a list of [{', '.join(columns)}]")
    for row in value:
        if not isinstance(row, list) or len(row) != len(columns):
            raise BadRow(f"{name} has {json_text(row)}; expected [{', '.join(columns)}]")
    numbers = [[_number(cell, f"{name}, {column}") for cell, column in zip(row, columns, strict=True)] for row in value]
    return np.array(numbers, np.float64).reshape(-1, len(columns))


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadRow(f"{name} is {json_text(value)}; expected a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise BadRow(f"{name} is {json_text(value)}; expected a finite number")
    return number


def _first_qids(qids: Sequence[QueryId]) -> str:
    return first_of([*map(repr, qids)], PROBLEMS_SHOWN)
