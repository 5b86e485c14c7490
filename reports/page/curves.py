"""Data of the plots over all questions: calibration, and the distribution of scores and keyframes over clips."""

from __future__ import annotations

from functools import cache

import numpy as np

from pipeline.metrics.calibration import CalibrationBin, calibration_bins, option_probabilities
from reports.page.numbers import RunNumbers
from reports.page.runs import EvaluatedSetting, ReportedRun, stored_as
from stages.answer_questions import Answers
from stages.list_questions import Questions
from stages.sample_frames import Frames
from stages.score_frames import FrameScores
from stages.select_keyframes import Keyframes

PARTS_OF_A_CLIP = 10  # equal parts, from its beginning to its end
Points = list[tuple[float, float]]


def calibration_of(numbers: RunNumbers, setting: EvaluatedSetting) -> list[CalibrationBin]:
    """Return the calibration of a setting's answers, over the questions with a known answer."""
    right_options = {question.question_id: question.answer_index for question in numbers.question_rows}
    probabilities, is_right = [], []
    assert setting.answers is not None
    for row in stored_as(numbers.run.store, setting.answers, Answers).rows("answers"):
        right, prediction = right_options.get(row["question_id"]), row["prediction"]
        if prediction is not None and right is not None and len(row["option_logits"]):  # some models give no logits
            probabilities.append(float(option_probabilities(row["option_logits"])[prediction]))
            is_right.append(prediction == right)
    return calibration_bins(probabilities, is_right)


def scores_over_clips(run: ReportedRun) -> dict[str, Points]:
    """Return, by scorer, the mean probability of yes (percent) by the position of frames in their clips (percent)."""
    curves: dict[str, Points] = {}
    drawn: set[str] = set()  # ids of scores; selectors that share scores share a curve
    for setting in run.settings:
        is_drawn = setting.row in curves or setting.scores in drawn
        if setting.scores is not None and not is_drawn and run.store.exists(setting.scores):
            drawn.add(setting.scores)
            by_question = stored_as(run.store, setting.scores, FrameScores).by_question()
            totals, counts = np.zeros(PARTS_OF_A_CLIP), np.zeros(PARTS_OF_A_CLIP)
            for rows in by_question.where.values():
                values = by_question.probability_yes[rows]
                shares = _shares(len(values))
                totals += values @ shares
                counts += shares.sum(axis=0)
            curves[setting.row] = _points(100 * totals, counts)
    return curves


def keyframes_over_clips(run: ReportedRun) -> dict[str, Points]:
    """Return, by selector except uniform, the share of the keyframes (percent) in each part of their clips (percent)."""
    curves: dict[str, Points] = {}
    for setting in run.settings:
        if setting.keyframes is None or setting.row in (*curves, setting.uniform_row):
            continue
        keyframes = Keyframes(run.store, setting.keyframes)
        table = keyframes.columns("keyframes", "question_id", "positions")
        lengths = _lengths(run, setting)
        counts = np.zeros(PARTS_OF_A_CLIP)
        for question_id, positions in zip(table["question_id"], table["positions"], strict=True):
            n = lengths.get(question_id, 0)
            if n and len(positions):
                counts += _shares(n)[np.asarray(positions)].sum(axis=0)
        if counts.sum():
            curves[setting.row] = _points(100 * counts, np.full(PARTS_OF_A_CLIP, counts.sum()))
    return curves


@cache
def _shares(n_frames: int) -> np.ndarray:
    """Return the share of each frame of a clip that lies in each part of it: [n_frames, PARTS_OF_A_CLIP], rows sum to 1."""
    frame_edges = np.linspace(0, 1, n_frames + 1)
    part_edges = np.linspace(0, 1, PARTS_OF_A_CLIP + 1)
    overlap = np.minimum(frame_edges[1:, None], part_edges[1:]) - np.maximum(frame_edges[:-1, None], part_edges[:-1])
    return np.clip(overlap, 0, None) * n_frames


def _lengths(run: ReportedRun, setting: EvaluatedSetting) -> dict[str, int]:
    """Return the number of sampled frames of each question's clip, by question id."""
    columns = Questions(run.store, setting.questions).columns("questions", "question_id", "video_id", "clip_id")
    lengths = {clip: len(frames["row"]) for clip, frames in Frames(run.store, setting.frames).clips().items()}
    return {id: lengths.get((video, clip), 0) for id, video, clip in zip(*columns.values(), strict=True)}


def _points(totals: np.ndarray, counts: np.ndarray) -> Points:
    return [
        (100 * (part + 0.5) / PARTS_OF_A_CLIP, float(total / count))
        for part, (total, count) in enumerate(zip(totals, counts, strict=True))
        if count
    ]
