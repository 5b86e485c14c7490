"""The Localizer looks at every frame for every question (paper section 3.2)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from cache.errors import SevilaError
from cache.tables import Schema
from pipeline.batching import cut, token_batches
from pipeline.output import Shard, ShardedOutput
from pipeline.prompts import PROMPT_STYLES, single_frame_prefixes
from pipeline.stage import Artifact, Config, RunContext, stage
from stages.extract_features import Features
from stages.import_backbone import Backbone
from stages.init_localizer import LocalizerWeights
from stages.list_questions import Questions
from stages.progress import track
from stages.sample_frames import Clips, Frames
from stages.visual_windows import WINDOW_FRAMES, Group, windows

if TYPE_CHECKING:
    from pipeline.models.localizer import Localizer


class FrameScores(Artifact):
    """One row per (question, frame): what the Localizer says at its first decoded token.

    In the order of videos, questions, positions. Questions whose video failed have no rows; Keyframes says why.
    """

    kind = "frame_scores"
    tables = {
        "frame_scores": Schema(
            1,
            question_id="string",
            video_id="string",
            position="int32",  # of the frame in the question's clip
            frame_index="int64",
            seconds="float64",
            logit_yes="float32",
            logit_no="float32",
            probability_yes="float32",  # softmax over the whole vocabulary
            truncated="bool",  # the question's text was longer than the model reads
        )
    }


class ScoreFrames(Config):
    """How the Localizer is asked."""

    prompt: Literal["multiple_choice", "next_event", "moment"] = Field(
        "multiple_choice", description="kind of question"
    )
    instruction: Literal["necessary_details", "information_needed", "necessary_information"] = Field(
        "necessary_details", description="wording of the request (paper Table 16)"
    )
    precision: Literal["float32", "bfloat16"] = Field("float32", description="arithmetic; bfloat16 on a GPU")


@stage(version=1, output=FrameScores, sharded=True)
def score_frames(
    cfg: ScoreFrames,
    run: RunContext,
    questions: Questions,
    frames: Frames,
    features: Features,
    backbone: Backbone,
    localizer: LocalizerWeights,
    *,
    out: ShardedOutput,
) -> None:
    """Score every frame of every question's clip by how surely the Localizer says that the frame answers the question."""
    videos = features.rows("videos")
    asked: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for question in questions.rows("questions"):
        asked[question["video_id"]].append(question)
    clips = frames.clips()
    load = cache(lambda: _load(cfg, run, backbone, localizer))

    def plan() -> tuple[list[list[int]], dict[str, Any]]:
        n_tokens, width = backbone.feature_shape()
        sizes = [video["n_frames"] * n_tokens * width * 2 for video in videos]
        batch_frames = max(1, run.batch_tokens // n_tokens)
        return cut(sizes, run.shard_bytes), {"batch_tokens": run.batch_tokens, "batch_frames": batch_frames}

    def work(shard: Shard) -> None:
        wanted = [videos[item] for item in shard.items if videos[item]["status"] == "ok"]
        shard_questions = [question for video in wanted for question in asked[video["video_id"]]]
        groups = list(_groups([video for video in wanted if asked[video["video_id"]]]))
        if not groups:  # every video of the shard failed: nothing to load a model for
            return shard.write_rows("frame_scores", [])
        with shard.phase("score"):
            scorer = _Scorer(load(), cfg, shard_questions, clips, shard.settings["batch_tokens"])
            device, batch_frames = run.torch_device(), shard.settings["batch_frames"]
            for place, visual in track(
                windows(features, groups, scorer.localizer, device, batch_frames), "score_frames", "window", len(groups)
            ):
                scorer.score(place, visual)
        shard.write_rows("frame_scores", list(scorer.rows()))

    out.each_shard(plan, work)


def _groups(videos: list[dict[str, Any]]) -> Iterator[Group]:
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


def _load(cfg: ScoreFrames, run: RunContext, backbone: Backbone, weights: LocalizerWeights) -> Localizer:
    from pipeline.models.localizer import Localizer

    return Localizer(weights.load(run, backbone, cfg.precision), backbone.language(run, cfg.precision))


class _Scorer:
    """Collects the scores of one shard's (question, stored frame) pairs, each computed once."""

    def __init__(
        self,
        localizer: Localizer,
        cfg: ScoreFrames,
        questions: list[dict[str, Any]],
        clips: Clips,
        batch_tokens: int,
    ) -> None:
        self.localizer = localizer
        self._questions = questions
        self._clips = clips
        self._batch_tokens = batch_tokens
        localize = PROMPT_STYLES[cfg.prompt].localize
        texts = [localize(question["question"], question["options"], cfg.instruction) for question in questions]
        self._ids, self._truncated = localizer.language.verbalizer.tokenize(texts)
        self._asks: dict[tuple[str, int], list[int]] = defaultdict(list)  # stored frame -> numbers of questions
        for number, question in enumerate(questions):
            for row in np.unique(clips[question["video_id"], question["clip_id"]]["row"]):
                self._asks[question["video_id"], int(row)].append(number)
        self._scores: dict[tuple[int, int], tuple[float, float, float]] = {}

    def score(self, place: dict[tuple[str, int], int], visual: Any) -> None:
        """Score every question about the frames of one window."""
        pairs = [(number, key) for key in place for number in self._asks[key]]
        lengths = [len(self._ids[number]) for number, _ in pairs]
        n_visual = visual.shape[1] + len(
            self.localizer.language.verbalizer.tokenize_prefixes(single_frame_prefixes())[0]
        )
        for batch in token_batches(lengths, n_visual, self._batch_tokens):
            chosen = [pairs[item] for item in batch]
            tokens = visual[[place[key] for _, key in chosen]]
            found = self.localizer.score(tokens, [self._ids[number] for number, _ in chosen])
            values = np.stack([values.float().cpu().numpy() for values in found], axis=1)
            for (number, (_, row)), score in zip(chosen, values.tolist(), strict=True):
                if not np.isfinite(score).all():
                    question = self._questions[number]
                    raise SevilaError(
                        f"question {question['question_id']!r}, stored frame {row}: the Localizer gave {score}; "
                        "weights or features are broken, or the precision is too small; finished shards stay"
                    )
                self._scores[number, row] = (score[0], score[1], score[2])

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the table: questions in order, each clip's positions in time order; a repeated frame repeats its score."""
        for number, question in enumerate(self._questions):
            clip = self._clips[question["video_id"], question["clip_id"]]
            for position, (frame_index, seconds, row) in enumerate(
                zip(clip["frame_index"].tolist(), clip["seconds"].tolist(), clip["row"].tolist(), strict=True)
            ):
                logit_yes, logit_no, probability_yes = self._scores[number, row]
                yield {
                    "question_id": question["question_id"],
                    "video_id": question["video_id"],
                    "position": position,
                    "frame_index": frame_index,
                    "seconds": seconds,
                    "logit_yes": logit_yes,
                    "logit_no": logit_no,
                    "probability_yes": probability_yes,
                    "truncated": self._truncated[number],
                }
