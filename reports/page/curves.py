"""What a report draws of all questions at once: calibration, and how scores and keyframes fall over the clips."""

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

PARTS_OF_A_CLIP = 10  # parts of a clip, from its beginning to its end
Points = list[tuple[float, float]]


def calibration_of(numbers: RunNumbers, setting: EvaluatedSetting) -> list[CalibrationBin]:
    """Return a setting's answers to questions with a known answer, by the probability of the option chosen."""
    right = {question.question_id: question.answer_index for question in numbers.asked}
    chances, is_right = [], []
    assert setting.answers is not None
    for row in stored_as(numbers.run.store, setting.answers, Answers).rows("answers"):
        known = right.get(row["question_id"])
        if (
            row["prediction"] is not None and known is not None and len(row["option_logits"])
        ):  # some models only say which
            chances.append(float(option_probabilities(row["option_logits"])[row["prediction"]]))
            is_right.append(row["prediction"] == known)
    return calibration_bins(chances, is_right)


def scores_over_clips(run: ReportedRun) -> dict[str, Points]:
    """Return, by who scores, the mean probability of yes, in percent, by the place of frames in their clips, in percent."""
    curves: dict[str, Points] = {}
    drawn: set[str] = set()  # selectors that choose by the same scores are one curve
    for setting in run.settings:
        shown = setting.row in curves or setting.scores in drawn
        if setting.scores is not None and not shown and run.store.exists(setting.scores):
            drawn.add(setting.scores)
            by_question = stored_as(run.store, setting.scores, FrameScores).by_question()
            totals, counts = np.zeros(PARTS_OF_A_CLIP), np.zeros(PARTS_OF_A_CLIP)
            for where in by_question.where.values():
                values = by_question.probability_yes[where]
                shares = _shares(len(values))
                totals += values @ shares
                counts += shares.sum(axis=0)
            curves[setting.row] = _points(100 * totals, counts)
    return curves


def keyframes_over_clips(run: ReportedRun) -> dict[str, Points]:
    """Return, by who chose them, the share of the keyframes in each part of their clips, both in percent."""
    curves: dict[str, Points] = {}
    for setting in run.settings:
        if setting.keyframes is None or setting.row in (
            *curves,
            setting.uniform_row,
        ):  # everybody knows where these are
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
    """Return how much of each of a clip's frames lies in each part of it: [n_frames, PARTS_OF_A_CLIP], rows add up to 1."""
    edges = np.linspace(0, 1, n_frames + 1)
    places = np.linspace(0, 1, PARTS_OF_A_CLIP + 1)
    overlap = np.minimum(edges[1:, None], places[1:]) - np.maximum(edges[:-1, None], places[:-1])
    return np.clip(overlap, 0, None) * n_frames


def _lengths(run: ReportedRun, setting: EvaluatedSetting) -> dict[str, int]:
    """Return how many frames were sampled of each question's clip."""
    columns = Questions(run.store, setting.questions).columns("questions", "question_id", "video_id", "clip_id")
    clips = Frames(run.store, setting.frames).clips()
    of_clips = {clip: len(frames["row"]) for clip, frames in clips.items()}
    return {id: of_clips.get((video, clip), 0) for id, video, clip in zip(*columns.values(), strict=True)}


def _points(totals: np.ndarray, counts: np.ndarray) -> Points:
    return [
        (100 * (place + 0.5) / PARTS_OF_A_CLIP, float(total / count))
        for place, (total, count) in enumerate(zip(totals, counts, strict=True))
        if count
    ]
