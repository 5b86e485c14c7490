"""Questions about every frame of their clips, each (question, stored frame) pair asked once, in batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pipeline.batching import cut, token_batches
from pipeline.engine.joined import refuse_cut
from pipeline.engine.output import Shard
from pipeline.engine.progress import track
from pipeline.engine.stage import Artifact, Config, Plan, PooledArtifact, RunContext
from pipeline.inference.backbone import Backbone
from pipeline.inference.visual_windows import WINDOW_FRAMES, Group, Windows
from pipeline.memory import Halving
from pipeline.models.prompts import single_frame_prefixes
from pipeline.models.transfer import to_device
from pipeline.video.frames import Clips

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.answerer import Answerer
    from pipeline.models.localizer import Localizer

Pair = tuple[int, int]  # number of a question, stored row of a frame of its video


class Asker(Protocol):
    """What is asked of a pair."""

    @property
    def lengths(self) -> Sequence[int]:
        """Text tokens of each question, by its number."""

    @property
    def model(self) -> Localizer | Answerer:
        """Who is asked."""

    def ask(self, visual: Tensor, pairs: Sequence[Pair]) -> Tensor:
        """Return what the model says about R pairs, [R, ...] on its device; `visual` are the pairs' frames, [R, Q, L]."""

    def columns(self, said: np.ndarray, pairs: Sequence[Pair]) -> Iterable[dict[str, Any]]:
        """Return, for each of R pairs, columns of its row, by what `ask` returned for them."""


def questions_of(features: Artifact, questions: Artifact) -> dict[str, list[dict[str, Any]]]:
    """Return the questions of each video in their order; raises `CorruptArtifactError` unless both have the same videos."""
    asked: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for question in questions.rows("questions"):
        asked[question["video_id"]].append(question)
    refuse_cut(features, [row["video_id"] for row in features.rows("videos")], questions, asked, "videos")
    return asked


def plan_by_frames(n_frames: Sequence[int], run: RunContext, backbone: Backbone) -> Plan:
    """Cut items that read so many frames' features each into shards, and note the batch sizes that decide bytes."""
    n_tokens, width = backbone.feature_shape()
    batch_frames = max(1, run.batch_tokens // n_tokens)
    sizes = [int(n) * n_tokens * width * 2 for n in n_frames]
    return Plan(cut(sizes, run.shard_bytes), {"batch_tokens": run.batch_tokens, "batch_frames": batch_frames})


def plan_videos(
    cfg: Config,
    run: RunContext,
    questions: Artifact,
    frames: Artifact,
    features: Artifact,
    backbone: Backbone,
    weights: Artifact,
) -> Plan:
    """Cut the videos, rows of Features, into shards: of a stage that asks about every frame."""
    return plan_by_frames(features.columns("videos", "n_frames")["n_frames"].tolist(), run, backbone)


class FrameByFrame:
    """Asks questions about frames of their clips, for one stage."""

    def __init__(self, clips: Clips, features: PooledArtifact, run: RunContext, name: str) -> None:
        """Args: `name` of the stage, for its log."""
        self._clips = clips
        self._windows = Windows(features, run.torch_device())
        self._halving = Halving(name)

    def rows(
        self, asker: Asker, questions: Sequence[dict[str, Any]], videos: Sequence[dict[str, Any]], shard: Shard
    ) -> Iterator[dict[str, Any]]:
        """Ask `questions` about every frame of their clips in `videos`; yield a row per question and position of its clip.

        In the order of questions, then time; a frame that a short clip repeats is asked about once and repeats its row.
        """
        groups = list(_groups(videos))
        read = self._windows.tokens(groups, asker.model, shard.settings["batch_frames"])
        asks = _asks(questions, self._clips)
        found: dict[Pair, dict[str, Any]] = {}
        for place, visual in track(read, shard, "window", len(groups)):
            found |= _ask(asker, asks, place, visual, shard.settings["batch_tokens"], self._halving)
        for number, question in enumerate(questions):
            clip = self._clips[question["video_id"], question["clip_id"]]
            columns = (clip["frame_index"].tolist(), clip["seconds"].tolist(), clip["row"].tolist())
            for position, (frame_index, seconds, row) in enumerate(zip(*columns, strict=True)):
                yield {
                    "question_id": question["question_id"],
                    "video_id": question["video_id"],
                    "position": position,
                    "frame_index": frame_index,
                    "seconds": seconds,
                } | found[number, row]


def _asks(questions: Sequence[dict[str, Any]], clips: Clips) -> dict[tuple[str, int], list[int]]:
    """Return the numbers of the questions whose clips hold each stored frame."""
    asks: dict[tuple[str, int], list[int]] = defaultdict(list)
    for number, question in enumerate(questions):
        for row in np.unique(clips[question["video_id"], question["clip_id"]]["row"]).tolist():
            asks[question["video_id"], row].append(number)
    return asks


def _ask(
    asker: Asker,
    asks: dict[tuple[str, int], list[int]],
    place: dict[tuple[str, int], int],
    visual: Tensor,
    batch_tokens: int,
    halving: Halving,
) -> dict[Pair, dict[str, Any]]:
    """Return what every question says about the frames of one window."""
    pairs = [(number, frame) for frame in place for number in asks.get(frame, ())]
    lengths = [asker.lengths[number] for number, _ in pairs]
    device = str(visual.device)
    (prefix,) = asker.model.language.verbalizer.tokenize_prefixes(single_frame_prefixes())

    def ask(items: np.ndarray) -> tuple[list[Pair], Tensor]:
        chosen = [(number, row) for number, (_, row) in (pairs[item] for item in items)]
        tokens = visual.index_select(0, to_device(np.array([place[pairs[item][1]] for item in items]), device))
        return chosen, asker.ask(tokens, chosen)

    asked: list[tuple[list[Pair], Tensor]] = []
    for batch in token_batches(lengths, visual.shape[1] + len(prefix), batch_tokens):
        asked += halving(ask, batch)
    # Only now: until here nobody has waited for the device, which is at the first batches still.
    return {
        pair: columns
        for chosen, said in asked
        for pair, columns in zip(chosen, asker.columns(said.cpu().numpy(), chosen), strict=True)
    }


def _groups(videos: Sequence[dict[str, Any]]) -> Iterator[Group]:
    """Cut the frames of all videos into groups that a window holds; a long video is spread over several."""
    group: Group = []
    count = 0
    for video in videos:
        for start in range(0, video["n_frames"], WINDOW_FRAMES):
            rows = list(range(start, min(start + WINDOW_FRAMES, video["n_frames"])))
            if group and count + len(rows) > WINDOW_FRAMES:
                yield group
                group, count = [], 0
            group.append((video["video_id"], rows))
            count += len(rows)
    if group:
        yield group
