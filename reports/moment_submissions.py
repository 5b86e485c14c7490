"""The moment-retrieval benchmark: evaluation of a predictions file, submission files, and frame scores from predictions."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import SevilaError
from cache.id_prefixes import find
from cache.store import Store
from pipeline.metrics.localization_metrics import inside
from pipeline.metrics.moment_metrics import benchmark_report, highlight_scores, retrieval_scores
from pipeline.selection.moments import Query
from reports.moment_files import matched, read_annotations, read_predictions
from reports.stale import read_as
from stages.list_questions import Questions
from stages.retrieve_moments import Moments
from stages.sample_frames import Frames
from stages.select_keyframes import Keyframes

log = logging.getLogger("sevila")


def evaluate_files(predictions: Path, annotations: Path, allow_outside: bool = False) -> dict[str, dict[str, Any]]:
    """Return the benchmark's metrics of a predictions file, in the layout of the official evaluator.

    The report has no metrics of windows, or of saliency, if the predictions lack them.

    Raises:
        SevilaError: A file is invalid; see `read_annotations`, `read_predictions` and `matched`.
    """
    pairs = matched(read_predictions(predictions), read_annotations(annotations), allow_outside)
    retrieval = highlights = None
    windows = [prediction.windows for prediction, _ in pairs if prediction.windows is not None]
    if windows:
        retrieval = retrieval_scores(windows, [annotation.windows for _, annotation in pairs])
    saliency = [prediction.saliency for prediction, _ in pairs if prediction.saliency is not None]
    ratings = [annotation.ratings for _, annotation in pairs if annotation.ratings is not None]
    if saliency and 0 < len(ratings) < len(pairs):
        raise SevilaError(
            f"{annotations}: {len(pairs) - len(ratings)} of {len(pairs)} queries have no relevant_clip_ids and "
            "saliency_scores; expected them for all queries or for none"
        )
    if saliency and ratings:
        highlights = highlight_scores(saliency, ratings)
    elif saliency:
        log.warning("%s: no saliency_scores, so pred_saliency_scores are not evaluated", annotations)
    return benchmark_report(retrieval, highlights)


def submission(store: Store, prefix: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of the benchmark's submission file for one Moments artifact; `prefix` as in `Store.find`.

    Saliency is the frame score by which the moments were ranked, for every 2 s of the video.

    Raises:
        StoreError: The artifact is of another kind, or the store no longer holds its inputs.
    """
    moments = read_as(store, find(store, prefix), Moments, "retrieve_moments")
    questions = Questions(store, moments.record.inputs["questions"])
    texts = {question.question_id: question.question for question in questions.questions()}
    queries, windows = moments.queries_of(questions)
    _warn_of_empty(queries)
    for query in queries:
        yield {
            "qid": _qid(query.question_id),
            "query": texts[query.question_id],
            "vid": query.video_id,
            "pred_relevant_windows": windows[query.question_id],
            "pred_saliency_scores": query.clip_scores,
        }


def submission_text(store: Store, prefix: str) -> str:
    """Return the text of a submission file, one JSON object per line; raises the errors of `submission`."""
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in submission(store, prefix))


def span_scores(store: Store, prefix: str, predictions: Path) -> Iterator[dict[str, Any]]:
    """Yield rows question_id, frame_index, score: each sampled frame with the best score of the predicted windows around it.

    A frame outside all windows gets 0, or the lowest score if that is negative. Questions without predictions get no rows.

    Args:
        prefix: As in `Store.find`, of a keyframes artifact, which determines the questions and the sampled frames.
        predictions: A file whose qids are question ids, and whose windows are in seconds of the video.

    Raises:
        SevilaError: The file is invalid or has no windows for these questions, or the artifact is of another kind.
    """
    keyframes = read_as(store, find(store, prefix), Keyframes, "select_keyframes")
    questions = Questions(store, keyframes.record.inputs["questions"])
    clips = Frames(store, keyframes.record.inputs["frames"]).clips_of(questions)
    windows = {str(row.qid): row.windows for row in read_predictions(predictions) if row.windows is not None}
    predicted = [question for question in questions.questions() if question.question_id in windows]
    if not predicted:
        raise SevilaError(
            f"{predictions}: found {len(windows)} queries with windows, none of them a question of {questions.id}; "
            "expected question ids as qids (`sevila cache show` lists them)"
        )
    for question in predicted:
        if (clip := clips.get((question.video_id, question.clip_id))) is not None:
            spans, scores = windows[question.question_id][:, :2], windows[question.question_id][:, 2]
            covered = np.where(inside(clip["seconds"], spans), scores, -np.inf)
            best = covered.max(axis=1, initial=scores.min(initial=0.0))
            for frame, score in zip(clip["frame_index"], best, strict=True):
                yield {"question_id": question.question_id, "frame_index": int(frame), "score": float(score)}


def _warn_of_empty(queries: Sequence[Query]) -> None:
    failed = sum(query.status != "ok" for query in queries)
    without = sum(query.status == "ok" and query.n_moments == 0 for query in queries)
    if failed or without:
        log.warning(
            "%d queries have no window, which the official evaluator rejects: %d whose video failed, %d without a yes frame "
            "(retrieve_moments.without_yes=best_frame gives these one)",
            failed + without,
            failed,
            without,
        )


def _qid(question_id: str) -> int | str:
    """Return the query id as in the benchmark's files, where it is a number."""
    is_number = question_id.isascii() and question_id.isdigit() and str(int(question_id)) == question_id
    return int(question_id) if is_number else question_id
