"""The texts that scorers put to frames: one a question, or one for each thing that is said while it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.datasets.question import Question
from pipeline.datasets.subtitles import NO_CUES, Cues
from pipeline.video.frames import Clips


class FrameTexts(NamedTuple):
    """The texts of some questions, and which of them each frame of a question's clip is asked, [T] int64 a question."""

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
        text: (question, what is said) -> text.
        subtitles: by the video's id; None where they are no part of the texts.
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
        numbers = {each: first + number for number, each in enumerate(dict.fromkeys(shown))}
        texts += [text(question, each) for each in numbers]
        of_frames.append(np.array([numbers[each] for each in shown], np.int64))
    return FrameTexts(texts, of_frames)
