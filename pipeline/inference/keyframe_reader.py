"""Answers of the Answerer to questions from sets of frames, in batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from pipeline.batching import token_batches
from pipeline.datasets.question import Question
from pipeline.engine.output import Shard
from pipeline.engine.progress import track
from pipeline.inference.option_reader import OptionValues, PreparedQuestion
from pipeline.inference.streams import behind
from pipeline.inference.visual_windows import Group, Windows
from pipeline.memory import Halving
from pipeline.models.prompts import frame_prefixes
from pipeline.models.transfer import to_device, to_host
from pipeline.reasons import Reason

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.answerer import Answerer

# Numbers of units, their table of values in transfer to the host, and a function that waits for it.
_Batch = tuple[list[int], "Tensor", Callable[[], None]]


class QuestionFrames(NamedTuple):
    """A question and the stored rows of the frames that it is answered from together."""

    question: Question
    rows: list[int]


class FramesAnswer(NamedTuple):
    """The answer from one set of frames."""

    reason: Reason  # why there is no answer
    values: np.ndarray = np.empty(0, np.float32)  # of the options, [n_options]
    first_token_id: int | None = None
    truncated: bool = False  # the question's text

    @property
    def prediction(self) -> int:
        """The index of the option with the highest value."""
        return int(self.values.argmax())


class Reader(Protocol):
    """A way to ask the Answerer: for a value per option (`OptionReader`) or a text (`TextReader`)."""

    @property
    def answerer(self) -> Answerer:
        """The model."""

    def refusal(self, question: Question) -> Reason:
        """Return why a question cannot be asked; empty if it can."""

    def prepare(self, questions: Sequence[Question]) -> list[PreparedQuestion]:
        """Return the questions with their token ids."""

    def ask(self, visual: Tensor, prepared: Sequence[PreparedQuestion], frame_prefixes: Sequence[str]) -> Tensor:
        """Return a row of numbers for each question, [R, N] on the device, for its frames' visual tokens [R, K, Q, L]."""

    def values(self, table: np.ndarray, prepared: Sequence[PreparedQuestion]) -> list[OptionValues]:
        """Return the values in a table of `ask`, on the host."""


class KeyframeReader:
    """Asks questions of one shard in batches with equal numbers of frames and similar text lengths."""

    def __init__(self, reader: Reader, windows: Windows, shard: Shard) -> None:
        self._reader, self._windows, self._shard = reader, windows, shard
        self._halving = Halving("answer_questions")

    def answers(self, units: Sequence[QuestionFrames]) -> dict[str, list[FramesAnswer]]:
        """Return the answers by question id, one for each set of its frames."""
        groups = list(_groups(units, self._windows.n_frames))
        windows = self._windows.tokens(
            map(_stored_rows, groups), self._reader.answerer, self._shard.settings["batch_frames"]
        )
        tracked = zip(groups, track(windows, self._shard, "window", len(groups)), strict=True)
        answers: dict[str, list[FramesAnswer]] = defaultdict(list)
        for group, collect in behind((group, self._ask(group, *window)) for group, window in tracked):
            for unit, answer in zip(group, collect(), strict=True):
                answers[unit.question.question_id].append(answer)
        return answers

    def _ask(
        self, units: Sequence[QuestionFrames], place: dict[tuple[str, int], int], visual: Tensor
    ) -> Callable[[], list[FramesAnswer]]:
        """Start asking, and return a function that waits for the device and returns an answer for each unit."""
        answers = [FramesAnswer(self._reader.refusal(unit.question)) for unit in units]
        prepared = self._reader.prepare([unit.question for unit in units])
        by_frames: dict[int, list[int]] = defaultdict(list)
        for number, unit in enumerate(units):
            if not answers[number].reason:
                by_frames[len(unit.rows)].append(number)
        batches: list[_Batch] = []
        for n_frames, numbers in sorted(by_frames.items()):
            prefixes = frame_prefixes(n_frames)

            def ask(chosen: list[int], prefixes: list[str] = prefixes) -> _Batch:
                where = [
                    [place[units[number].question.video_id, row] for row in units[number].rows] for number in chosen
                ]
                frames = visual[to_device(np.array(where), str(visual.device))]
                table, copied = to_host(self._reader.ask(frames, [prepared[number] for number in chosen], prefixes))
                return chosen, table[0], copied

            prefix_ids = self._reader.answerer.language.verbalizer.tokenize_prefixes(prefixes)
            extra_tokens = n_frames * (visual.shape[1] + max(len(ids) for ids in prefix_ids))
            lengths = [len(prepared[number].token_ids) for number in numbers]
            for batch in token_batches(lengths, extra_tokens, self._shard.settings["batch_tokens"]):
                batches += self._halving(ask, [numbers[item] for item in batch])

        def collect() -> list[FramesAnswer]:
            for chosen, table, copied in batches:
                copied()
                values = self._reader.values(table.numpy(), [prepared[number] for number in chosen])
                for number, options in zip(chosen, values, strict=True):
                    truncated = prepared[number].truncated
                    answers[number] = FramesAnswer(
                        options.problem_of(), options.values, options.first_token_id, truncated
                    )
            return answers

        return collect


def _groups(units: Iterable[QuestionFrames], window_frames: int) -> Iterator[list[QuestionFrames]]:
    """Group units whose frames fit in a window together; questions about one video share its frames."""
    group: list[QuestionFrames] = []
    group_frames: set[tuple[str, int]] = set()
    for unit in units:
        frames = {(unit.question.video_id, row) for row in unit.rows}
        if group and len(group_frames) + len(frames - group_frames) > window_frames:
            yield group
            group, group_frames = [], set()
        group.append(unit)
        group_frames |= frames
    if group:
        yield group


def _stored_rows(units: Iterable[QuestionFrames]) -> Group:
    rows_of_videos: dict[str, set[int]] = {}
    for unit in units:
        rows_of_videos.setdefault(unit.question.video_id, set()).update(unit.rows)
    return [(video_id, sorted(rows)) for video_id, rows in rows_of_videos.items()]
