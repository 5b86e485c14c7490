"""Batches of questions about keyframes: which wait for which, and how much waits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.datasets.question import Question
from pipeline.inference import keyframe_reader
from pipeline.inference.keyframe_reader import KeyframeReader, QuestionFrames
from pipeline.inference.option_reader import OptionValues, PreparedQuestion
from pipeline.reasons import Reason


class SumOfFrames:
    """A reader whose value for a question is the sum of its frames' numbers."""

    verbalizer = SimpleNamespace(tokenize_prefixes=lambda prefixes: [[0]] * len(prefixes))
    answerer: Any = SimpleNamespace(language=SimpleNamespace(verbalizer=verbalizer))

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []

    def refusal(self, question: Question) -> Reason:
        return Reason("refused" if question.question == "refused" else "")

    def prepare(self, questions: Sequence[Question]) -> list[PreparedQuestion]:
        return [PreparedQuestion(question, [0] * len(question.question), False, []) for question in questions]

    def ask(self, visual: torch.Tensor, prepared: Sequence[PreparedQuestion], prefixes: Sequence[str]) -> torch.Tensor:
        self.batch_sizes.append(len(prepared))
        return visual.sum(dim=(1, 2, 3))[:, None]

    def values(self, table: np.ndarray, prepared: Sequence[PreparedQuestion]) -> list[OptionValues]:
        return [OptionValues(row, None) for row in table]


class NumberedFrames:
    """Windows whose visual tokens are the numbers of stored rows, [F, 1, 1]."""

    def tokens(self, groups: Sequence[Any], model: Any, batch_frames: int) -> Iterator[Any]:
        for group in groups:
            frames = [(video, row) for video, rows in group for row in rows]
            yield (
                {frame: at for at, frame in enumerate(frames)},
                torch.tensor([float(row) for _, row in frames])[:, None, None],
            )


@pytest.mark.parametrize("most_waiting", [512, 20, 1])
@pytest.mark.parametrize("batch_tokens", [1, 300, 100_000])
def test_each_set_of_frames_is_answered_whatever_waits(
    monkeypatch: pytest.MonkeyPatch, most_waiting: int, batch_tokens: int
) -> None:
    monkeypatch.setattr(keyframe_reader, "WINDOW_FRAMES", 9)
    monkeypatch.setattr(keyframe_reader, "MOST_WAITING_FRAMES", most_waiting)
    rng = np.random.default_rng(0)
    units = []
    for number in range(200):
        question = Question(
            f"q{number // 2}", f"v{number // 6}", "refused" if number % 7 == 0 else "why" * (number % 5)
        )
        units.append(QuestionFrames(question, sorted(rng.choice(8, rng.integers(1, 6), replace=False).tolist())))
    shard: Any = SimpleNamespace(
        settings={"batch_frames": 4, "batch_tokens": batch_tokens}, place=0, of=1, stage=SimpleNamespace(name="x")
    )
    reader = SumOfFrames()
    of_questions = KeyframeReader(reader, NumberedFrames(), shard).answers(units)  # type: ignore[arg-type]
    answers = [answer for number in range(100) for answer in of_questions[f"q{number}"]]
    assert len(answers) == 200
    for unit, answer in zip(units, answers, strict=True):
        refused = unit.question.question == "refused"
        assert str(answer.reason) == ("refused" if refused else "")
        assert answer.values.tolist() == ([] if refused else [float(sum(unit.rows))])
    if batch_tokens == 100_000 and most_waiting == 512:
        assert len(reader.batch_sizes) == 5, "one batch for each number of frames"
