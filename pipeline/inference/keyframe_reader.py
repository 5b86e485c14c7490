"""Answers of the Answerer to questions from sets of frames, in batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from pipeline.batching import token_batches
from pipeline.datasets.question import Question
from pipeline.engine.output import Shard
from pipeline.engine.progress import track
from pipeline.inference.option_reader import OptionValues, PreparedQuestion
from pipeline.inference.streams import behind
from pipeline.inference.visual_windows import WINDOW_FRAMES, Group, Windows
from pipeline.memory import Halving
from pipeline.models.prompts import frame_prefixes
from pipeline.models.transfer import to_device, to_host
from pipeline.reasons import Reason

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.answerer import Answerer


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


class _PreparedUnit(NamedTuple):
    """A unit's number, and its question with token ids."""

    number: int
    prepared: PreparedQuestion


class _AskedBatch(NamedTuple):
    """Questions that were asked at once, and their table of values in transfer to the host."""

    units: list[_PreparedUnit]
    table: Tensor
    copied: Callable[[], None]  # waits for the transfer


class KeyframeReader:
    """Asks questions of one shard in batches with equal numbers of frames and similar text lengths."""

    def __init__(self, reader: Reader, windows: Windows, shard: Shard) -> None:
        self._reader, self._windows, self._shard = reader, windows, shard
        self._halving = Halving("answer_questions")

    def answers(self, units: Sequence[QuestionFrames]) -> dict[str, list[FramesAnswer]]:
        """Return the answers by question id, one for each set of its frames."""
        of_units = [FramesAnswer(self._reader.refusal(unit.question)) for unit in units]
        for batch in chain.from_iterable(behind(self._batches(units, of_units))):
            batch.copied()
            values = self._reader.values(batch.table.numpy(), [unit.prepared for unit in batch.units])
            for (number, prepared), options in zip(batch.units, values, strict=True):
                problem, first_token_id = options.problem_of(), options.first_token_id
                of_units[number] = FramesAnswer(problem, options.values, first_token_id, prepared.truncated)
        answers: dict[str, list[FramesAnswer]] = defaultdict(list)
        for unit, answer in zip(units, of_units, strict=True):
            answers[unit.question.question_id].append(answer)
        return answers

    def _batches(self, units: Sequence[QuestionFrames], refused: Sequence[FramesAnswer]) -> Iterator[list[_AskedBatch]]:
        """Ask the questions of each window without waiting for the device.

        Those of a window's last batch of each number of frames, which is rarely full, wait for those of the next window.
        """
        import torch

        groups = list(_groups(units))
        rows = [_stored_rows(units[number] for number in group) for group in groups]
        windows = self._windows.tokens(rows, self._reader.answerer, self._shard.settings["batch_frames"])
        tracked = zip(groups, track(windows, self._shard, "window", len(groups)), strict=True)
        waiting: dict[int, tuple[list[_PreparedUnit], Tensor]] = {}  # by number of frames, with visual tokens
        for n_seen, (group, (place, visual)) in enumerate(tracked, 1):
            by_frames = defaultdict[int, list[int]](list)
            for number in group:
                if not refused[number].reason:
                    by_frames[len(units[number].rows)].append(number)
            is_last, batches = n_seen == len(groups), list[_AskedBatch]()
            for n_frames in sorted({*by_frames, *(waiting if is_last else ())}):
                asked, tokens = waiting.pop(n_frames, ([], visual[:0]))
                places = [place[units[n].question.video_id, row] for n in by_frames[n_frames] for row in units[n].rows]
                where = np.array([*range(len(tokens)), *(len(tokens) + at for at in places)]).reshape(-1, n_frames)
                prepared = self._reader.prepare([units[number].question for number in by_frames[n_frames]])
                asked = [*asked, *map(_PreparedUnit, by_frames[n_frames], prepared)]
                tokens = torch.cat([tokens, visual])
                chosen = self._cut(asked, n_frames, visual.shape[1])
                rest = np.empty(0, np.int64) if is_last else chosen.pop()
                batches += [batch for items in chosen for batch in self._ask(asked, where, tokens, items)]
                if len(rest):
                    kept = to_device(where[rest].ravel(), str(visual.device))
                    waiting[n_frames] = [asked[item] for item in rest], tokens.index_select(0, kept)
            yield batches

    def _cut(self, asked: Sequence[_PreparedUnit], n_frames: int, n_tokens: int) -> list[np.ndarray]:
        """Cut questions of equal numbers of frames, with this many visual tokens each, into batches."""
        prefix_ids = self._reader.answerer.language.verbalizer.tokenize_prefixes(frame_prefixes(n_frames))
        extra_tokens = n_frames * (n_tokens + max(len(ids) for ids in prefix_ids))
        lengths = [len(unit.prepared.token_ids) for unit in asked]
        return token_batches(lengths, extra_tokens, self._shard.settings["batch_tokens"])

    def _ask(
        self, asked: Sequence[_PreparedUnit], where: np.ndarray, tokens: Tensor, items: np.ndarray
    ) -> list[_AskedBatch]:
        """Ask some of the questions, whose frames are `tokens` [F, Q, L] at `where` [R, K]."""
        prefixes = frame_prefixes(where.shape[1])

        def ask(chosen: np.ndarray) -> _AskedBatch:
            frames = tokens[to_device(where[chosen], str(tokens.device))]
            units = [asked[item] for item in chosen]
            (table,), copied = to_host(self._reader.ask(frames, [unit.prepared for unit in units], prefixes))
            return _AskedBatch(units, table, copied)

        return self._halving(ask, items)


def _groups(units: Sequence[QuestionFrames]) -> Iterator[list[int]]:
    """Group the numbers of units whose frames fit in a window together; questions about one video share its frames."""
    group: list[int] = []
    group_frames: set[tuple[str, int]] = set()
    for number, unit in enumerate(units):
        frames = {(unit.question.video_id, row) for row in unit.rows}
        if group and len(group_frames | frames) > WINDOW_FRAMES:
            yield group
            group, group_frames = [], set()
        group.append(number)
        group_frames |= frames
    if group:
        yield group


def _stored_rows(units: Iterable[QuestionFrames]) -> Group:
    rows_of_videos: dict[str, set[int]] = {}
    for unit in units:
        rows_of_videos.setdefault(unit.question.video_id, set()).update(unit.rows)
    return [(video_id, sorted(rows)) for video_id, rows in rows_of_videos.items()]
