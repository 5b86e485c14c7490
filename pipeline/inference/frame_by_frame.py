"""Values of a model for every frame of questions' clips; each (question, stored frame) pair is computed once, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np

from pipeline.batching import cut, runs_of, token_batches
from pipeline.datasets.question import Question
from pipeline.engine.hardware import tokens_at_once
from pipeline.engine.output import Shard
from pipeline.engine.pooled import PooledArtifact
from pipeline.engine.progress import track
from pipeline.engine.stage import Artifact, Plan, RunContext
from pipeline.inference.asked_videos import MAX_PAIRS, cut_by_pairs, n_pairs_of
from pipeline.inference.backbone import Backbone
from pipeline.inference.streams import behind
from pipeline.inference.visual_windows import MOST_WAITING_FRAMES, WINDOW_FRAMES, Group, SeesFrames, Windows
from pipeline.memory import Halving
from pipeline.models.prompts import single_frame_prefixes
from pipeline.models.transfer import to_device, to_host
from pipeline.video.frames import Clips

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.answerer import Answerer
    from pipeline.models.localizer import Localizer


class Asker(Protocol):
    """A way to ask a model about (text, frame) pairs; texts have numbers, usually those of the questions."""

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each text, by number."""

    @property
    def n_prefix_tokens(self) -> int:
        """Tokens of a pair besides its text and its frame."""

    @property
    def model(self) -> SeesFrames:
        """The model."""

    @property
    def n_values(self) -> int:
        """The maximum number of values per pair."""

    def ask(self, visual: Tensor, numbers: Sequence[int]) -> Tensor:
        """Return the model's values for R pairs, [R, at most n_values] on its device.

        Args:
            visual: the pairs' frames, [R, Q, L].
            numbers: the numbers of the pairs' texts.
        """


@dataclass(frozen=True)
class FrameValues:
    """A model's values for every frame of some questions' clips: P rows, ordered by question and time.

    Attributes:
        number: [P] int64, the row's index in `questions`.
        position: [P] int64, of the frame in the clip; `frame_index` and `seconds` in the video.
        values: [P, n_values] float64, NaN beyond those of the row's question.
        text: [P] int64, the number of the row's text.
    """

    questions: Sequence[Question]
    number: np.ndarray
    position: np.ndarray
    frame_index: np.ndarray
    seconds: np.ndarray
    values: np.ndarray
    text: np.ndarray

    @classmethod
    def of_clips(
        cls,
        questions: Sequence[Question],
        clips: Sequence[dict[str, np.ndarray]],
        values: np.ndarray,
        texts: Sequence[np.ndarray],
    ) -> Self:
        """Return the values [P, n_values] with their frames; `clips` and `texts` have an entry for each question."""
        lengths = [len(clip["row"]) for clip in clips]
        return cls(
            questions,
            np.repeat(np.arange(len(clips)), lengths),
            np.concatenate([np.arange(length) for length in lengths]),
            np.concatenate([clip["frame_index"] for clip in clips]),
            np.concatenate([clip["seconds"] for clip in clips]),
            values,
            np.concatenate(texts),
        )

    def places(self) -> dict[str, np.ndarray]:
        """Return the columns that identify the question and the frame of each row."""
        ids = np.array([question.question_id for question in self.questions], dtype=object)
        videos = np.array([question.video_id for question in self.questions], dtype=object)
        return {
            "question_id": ids[self.number],
            "video_id": videos[self.number],
            "position": self.position,
            "frame_index": self.frame_index,
            "seconds": self.seconds,
        }


def n_single_frame_prefix_tokens(model: Localizer | Answerer) -> int:
    """Return the number of tokens of a single frame's prefix."""
    (prefix,) = model.language.verbalizer.tokenize_prefixes(single_frame_prefixes())
    return len(prefix)


def plan_by_frames(n_frames: Sequence[int], run: RunContext, backbone: Backbone) -> Plan:
    """Cut items, which read this many frames' features each, into shards; the batch sizes in the settings affect the bytes."""
    n_tokens, width = backbone.feature_shape()
    batch_frames = max(1, tokens_at_once(run) // n_tokens)
    sizes = [int(n) * n_tokens * width * 2 for n in n_frames]
    return Plan(cut(sizes, run.shard_bytes), {"batch_tokens": tokens_at_once(run), "batch_frames": batch_frames})


def plan_videos(run: RunContext, questions: Artifact, frames: Artifact, features: Artifact, backbone: Backbone) -> Plan:
    """Cut the videos, rows of Features, and the questions of those that have many, for a stage that asks about every frame."""
    plan = plan_by_frames(features.columns("videos", "n_frames")["n_frames"].tolist(), run, backbone)
    n_pairs = n_pairs_of(questions, frames, features, MAX_PAIRS)
    return plan._replace(shards=[part for shard in plan.shards for part in cut_by_pairs(shard, n_pairs, MAX_PAIRS)])


def plan_questions(run: RunContext, keyframes: Artifact, backbone: Backbone) -> Plan:
    """Cut the questions, rows of Keyframes, into shards by the size of their keyframes' features."""
    return plan_by_frames([len(rows) for rows in keyframes.columns("keyframes", "rows")["rows"]], run, backbone)


class _BatchValues(NamedTuple):
    """Values [B, at most n_values] of B rows, in transfer to the host."""

    rows: np.ndarray
    values: Tensor
    copied: Callable[[], None]  # waits for the transfer


class FrameByFrame:
    """Asks questions about frames of their clips, for one stage."""

    def __init__(
        self, clips: Clips, features: PooledArtifact, run: RunContext, name: str, weights: Artifact | None
    ) -> None:
        """Args: `name` of the stage, for its log; `weights` of the model that is asked."""
        self._clips = clips
        self._windows = Windows(features, run.torch_device(), weights)
        self._halving = Halving(name)

    def ask(
        self,
        asker: Asker,
        questions: Sequence[Question],
        shard: Shard,
        texts: Sequence[np.ndarray] | None = None,
    ) -> FrameValues:
        """Ask at least one question about every frame of its clip.

        The values of a frame that a short clip repeats are computed once.

        Args:
            texts: [T] per question, the number of the text for each frame of its clip; the question's number by default.
        """
        clips = [self._clips[question.video_id, question.clip_id] for question in questions]
        texts = texts or [np.full(len(clip["row"]), number) for number, clip in enumerate(clips)]
        distinct = [np.unique(clip["row"], return_inverse=True) for clip in clips]
        first = np.cumsum([0, *(len(rows) for rows, _ in distinct)])  # of each question's pairs
        text_of_pair = np.empty(first[-1], np.int64)
        for start, (_, where), text_numbers in zip(first.tolist(), distinct, texts, strict=False):
            text_of_pair[start + where] = text_numbers
        video_ids = list(dict.fromkeys(question.video_id for question in questions))
        number_of_video = {id: number for number, id in enumerate(video_ids)}
        video_of_pair = np.repeat([number_of_video[question.video_id] for question in questions], np.diff(first))
        row_of_pair = np.concatenate([rows for rows, _ in distinct])
        by_frame = np.lexsort((row_of_pair, video_of_pair))  # stable: questions keep their order
        runs = runs_of(video_of_pair[by_frame], row_of_pair[by_frame])
        values = np.full((int(first[-1]), asker.n_values), np.nan)
        rows_of_videos: dict[str, list[int]] = {id: [] for id in video_ids}
        for video, row in runs:
            rows_of_videos[video_ids[video]].append(int(row))
        groups = list(_groups(rows_of_videos))
        windows = self._windows.tokens(groups, asker.model, shard.settings["batch_frames"])

        def pairs_of(video_id: str, row: int) -> np.ndarray:
            return by_frame[runs[number_of_video[video_id], row]]

        tracked = track(windows, shard, "window", len(groups))
        for batches in behind(self._asked(asker, tracked, len(groups), pairs_of, text_of_pair, shard)):
            for batch in batches:
                batch.copied()
                values[batch.rows, : batch.values.shape[1]] = batch.values.numpy()
        rows_of_values = [start + where for start, (_, where) in zip(first.tolist(), distinct, strict=False)]
        return FrameValues.of_clips(questions, clips, values[np.concatenate(rows_of_values)], texts)

    def _asked(
        self,
        asker: Asker,
        windows: Iterable[tuple[dict[tuple[str, int], int], Tensor]],
        n_windows: int,
        pairs_of: Callable[[str, int], np.ndarray],
        text_of_pair: np.ndarray,
        shard: Shard,
    ) -> Iterator[list[_BatchValues]]:
        """Ask about the (text, frame) pairs of each window without waiting for the device.

        The pairs of a window's last batch, which is rarely full, wait for those of the next window.

        Args:
            pairs_of: returns the numbers of a stored frame's pairs, [N] int64.
            text_of_pair: [P] int64, the number of each pair's text.
        """
        import torch

        waiting = where = np.empty(0, np.int64)
        kept: Tensor | None = None  # tokens of the pairs that wait, which are `where` in these
        for number, (place, visual) in enumerate(windows, 1):
            of_frames = [pairs_of(*frame) for frame in place]
            rows = np.concatenate([waiting, *of_frames])
            places = np.repeat(list(place.values()), list(map(len, of_frames))) + (0 if kept is None else len(kept))
            places = np.concatenate([where, places])
            tokens, texts = visual if kept is None else torch.cat([kept, visual]), text_of_pair[rows]
            lengths = [asker.lengths[text] for text in texts.tolist()]
            n_other_tokens = visual.shape[1] + asker.n_prefix_tokens
            batches = token_batches(lengths, n_other_tokens, shard.settings["batch_tokens"])
            waiting, kept = waiting[:0], None
            distinct, where = np.unique(places[batches[-1]], return_inverse=True)
            if number < n_windows and len(distinct) <= MOST_WAITING_FRAMES:
                waiting, kept = rows[batches.pop()], _at(tokens, distinct)
            else:
                where = where[:0]
            ask = partial(_ask, asker, tokens, places, texts, rows)
            yield [values for batch in batches for values in self._halving(ask, batch)]


def _ask(
    asker: Asker, tokens: Tensor, places: np.ndarray, texts: np.ndarray, rows: np.ndarray, items: np.ndarray
) -> _BatchValues:
    """Ask about some of R pairs, of the texts [R] and the frames at `places` [R] in `tokens`, with values in `rows` [R]."""
    (values,), copied = to_host(asker.ask(_at(tokens, places[items]), texts[items].tolist()))
    return _BatchValues(rows[items], values, copied)


def _at(tokens: Tensor, places: np.ndarray) -> Tensor:
    return tokens.index_select(0, to_device(places, str(tokens.device)))


def _groups(rows_of_videos: Mapping[str, Sequence[int]]) -> Iterator[Group]:
    """Cut stored frames, by video, into groups that fit in a window; a long video can span several."""
    group: Group = []
    count = 0
    for video_id, of_video in rows_of_videos.items():
        for start in range(0, len(of_video), WINDOW_FRAMES):
            rows = list(of_video[start : start + WINDOW_FRAMES])
            if group and count + len(rows) > WINDOW_FRAMES:
                yield group
                group, count = [], 0
            group.append((video_id, rows))
            count += len(rows)
    if group:
        yield group
