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
from pipeline.inference.visual_windows import MOST_WAITING_FRAMES, WINDOW_FRAMES, Group, Windows
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


class _Waiting(NamedTuple):
    """Questions that wait for others of as many frames, which are `where` [R, K] in `tokens` [F, Q, L]."""

    asked: list[_PreparedUnit]
    where: np.ndarray
    tokens: Tensor


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
        askable = [number for number, answer in enumerate(of_units) if not answer.reason]
        for batch in chain.from_iterable(behind(self._batches(units, askable))):
            batch.copied()
            values = self._reader.values(batch.table.numpy(), [unit.prepared for unit in batch.units])
            for (number, prepared), options in zip(batch.units, values, strict=True):
                problem, first_token_id = options.problem_of(), options.first_token_id
                of_units[number] = FramesAnswer(problem, options.values, first_token_id, prepared.truncated)
        answers: dict[str, list[FramesAnswer]] = defaultdict(list)
        for unit, answer in zip(units, of_units, strict=True):
            answers[unit.question.question_id].append(answer)
        return answers

    def _batches(self, units: Sequence[QuestionFrames], askable: Sequence[int]) -> Iterator[list[_AskedBatch]]:
        """Ask the questions of each window without waiting for the device.

        Those of a window's last batch of each number of frames, which is rarely full, wait for those of the next window.

        Args:
            askable: numbers of the units that are asked.
        """
        import torch

        groups = list(_groups(units, askable))
        rows = [_stored_rows(units[number] for number in group) for group in groups]
        windows = self._windows.tokens(rows, self._reader.answerer, self._shard.settings["batch_frames"])
        tracked = zip(groups, track(windows, self._shard, "window", len(groups)), strict=True)
        waiting: dict[int, _Waiting] = {}  # by number of frames
        for n_seen, (group, (place, visual)) in enumerate(tracked, 1):
            is_last, batches = n_seen == len(groups), list[_AskedBatch]()
            numbers = {n: [number for number in group if len(units[number].rows) == n] for n in _n_frames(units, group)}
            for n_frames in sorted({*numbers, *(waiting if is_last else ())}):
                asked = self._prepared(units, numbers.get(n_frames, []))
                places = [
                    place[units[unit.number].question.video_id, row]
                    for unit in asked
                    for row in units[unit.number].rows
                ]
                where, tokens = np.array(places, np.int64).reshape(-1, n_frames), visual
                if before := waiting.pop(n_frames, None):
                    where = np.concatenate([before.where, where + len(before.tokens)])
                    asked, tokens = [*before.asked, *asked], torch.cat([before.tokens, visual])
                chosen = self._cut(asked, n_frames, visual.shape[1])
                if not is_last:
                    waiting[n_frames] = _waiting(asked, where, tokens, chosen.pop())
                batches += [batch for items in chosen for batch in self._ask(asked, where, tokens, items)]
            while sum(len(each.tokens) for each in waiting.values()) > MOST_WAITING_FRAMES:
                most = waiting.pop(max(waiting, key=lambda n_frames: len(waiting[n_frames].tokens)))
                batches += self._ask(*most, np.arange(len(most.asked)))
            yield batches

    def _prepared(self, units: Sequence[QuestionFrames], numbers: Sequence[int]) -> list[_PreparedUnit]:
        prepared = self._reader.prepare([units[number].question for number in numbers])
        return list(map(_PreparedUnit, numbers, prepared))

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


def _waiting(asked: Sequence[_PreparedUnit], where: np.ndarray, tokens: Tensor, items: np.ndarray) -> _Waiting:
    """Return some of the questions with the visual tokens of their frames alone."""
    distinct, of_items = np.unique(where[items], return_inverse=True)
    of_frames = tokens.index_select(0, to_device(distinct, str(tokens.device)))
    return _Waiting([asked[item] for item in items], of_items.reshape(-1, where.shape[1]), of_frames)


def _n_frames(units: Sequence[QuestionFrames], numbers: Sequence[int]) -> set[int]:
    return {len(units[number].rows) for number in numbers}


def _groups(units: Sequence[QuestionFrames], numbers: Sequence[int]) -> Iterator[list[int]]:
    """Group units, by number, whose frames fit in a window together; questions about one video share its frames."""
    group: list[int] = []
    group_frames: set[tuple[str, int]] = set()
    for number in numbers:
        unit = units[number]
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
