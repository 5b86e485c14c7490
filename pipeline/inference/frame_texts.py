"""The texts with which scorers compare frames: one per question, or one per distinct subtitle in its clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.datasets.question import Question
from pipeline.datasets.readers.subtitles import NO_CUES, Cues
from pipeline.video.frames import Clips


class FrameTexts(NamedTuple):
    """The texts of some questions; `of_frames` has the index of each frame's text, [T] int64 per question."""

    texts: list[str]
    of_frames: list[np.ndarray]


def texts_of_frames(
    text: Callable[[Question, str], str],
    questions: Sequence[Question],
    clips: Clips,
    subtitles: Mapping[str, Cues] | None,
) -> FrameTexts:
    """Return the texts of these questions.

    Args:
        text: (question, subtitle) -> text.
        subtitles: by video id; None if the texts do not use them.
    """
    texts: list[str] = []
    of_frames: list[np.ndarray] = []
    for question in questions:
        seconds = clips[question.video_id, question.clip_id]["seconds"]
        first = len(texts)
        if subtitles is None:
            texts.append(text(question, ""))
            of_frames.append(np.full(len(seconds), first, np.int64))
            continue
        shown = list(map(subtitles.get(question.video_id, NO_CUES).shown_at, seconds.tolist()))
        numbers = {subtitle: first + number for number, subtitle in enumerate(dict.fromkeys(shown))}
        texts += [text(question, subtitle) for subtitle in numbers]
        of_frames.append(np.array([numbers[subtitle] for subtitle in shown], np.int64))
    return FrameTexts(texts, of_frames)
