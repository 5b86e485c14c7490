"""Frame scores by BLIP-2's image-text matching of frame and question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from pipeline.engine.output import Shard, ShardedOutput
from pipeline.engine.stage import Config, Plan, RunContext, stage
from pipeline.inference.asked_videos import AskedVideo
from pipeline.inference.frame_by_frame import FrameByFrame, plan_videos
from pipeline.inference.frame_scoring import score_shards
from pipeline.inference.frame_texts import texts_of_frames
from pipeline.inference.load_models import OnDemand
from pipeline.models.prompts import Template, template_text
from pipeline.selection.frame_scores import SCORE_COLUMNS
from stages.extract_features import Features
from stages.import_matcher import MatcherWeights
from stages.list_questions import Questions
from stages.sample_frames import Frames
from stages.score_frames import FrameScores

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.matcher import Matcher


class ScoreByMatching(Config):
    """The text that frames are matched with."""

    template: Template = Field("{question}", description="text of a question, with {question}, {options}, {subtitles}")


def plan_matching(
    run: RunContext, questions: Questions, frames: Frames, features: Features, matcher: MatcherWeights
) -> Plan:
    """Cut the videos into shards by the size of their features, those with many questions by these, too."""
    return plan_videos(run, questions, frames, features, matcher)


@stage(version=1, output=FrameScores, plan=plan_matching, gpu=True)
def score_by_matching(
    cfg: ScoreByMatching,
    run: RunContext,
    questions: Questions,
    frames: Frames,
    features: Features,
    matcher: MatcherWeights,
    *,
    out: ShardedOutput,
) -> None:
    """Score every frame of every question's clip by BLIP-2's image-text matching.

    `logit_yes` is the logit of a match, `logit_no` that of no match, `probability_yes` the softmax over the two, as in AKS.
    """
    videos, by_video = features.videos(), features.questions_by_video(questions)
    clips, subtitles = frames.clips_of(questions), questions.subtitles_for(cfg.template)
    frame_by_frame = FrameByFrame(clips, features, run, "score_by_matching", None)
    loaded = OnDemand(partial(matcher.matcher, run))

    def score(shard: Shard, ok: list[AskedVideo]) -> Mapping[str, np.ndarray]:
        shard_questions = [question for asked in ok for question in asked.questions]
        with shard.phase("score"):
            texts = texts_of_frames(partial(template_text, cfg.template), shard_questions, clips, subtitles)
            pairs = _Pairs(loaded.model, texts.texts)
            scored = frame_by_frame.ask(pairs, shard_questions, shard, texts.of_frames)
        scores = dict(zip(SCORE_COLUMNS, scored.values.T.astype(np.float32), strict=True))
        return {**scored.places(), **scores, "truncated": pairs.truncated[scored.text]}

    score_shards(out, videos, by_video, "the matcher", score)


class _Pairs:
    """Asks the matching head about (question, frame) pairs."""

    n_values = 3

    def __init__(self, matcher: Matcher, texts: Sequence[str]) -> None:
        self.model = matcher
        self._ids, truncated = matcher.tokenize(texts)
        self.lengths = [len(ids) for ids in self._ids]
        self.n_prefix_tokens = matcher.n_query_tokens
        self.truncated = np.array(truncated)

    def ask(self, visual: Tensor, numbers: Sequence[int]) -> Tensor:
        """Return the scores of R pairs, [R, 3] float32; `visual` are their frames, [R, P, D]."""
        import torch

        no, yes = self.model.score(visual, [self._ids[number] for number in numbers]).unbind(dim=1)
        return torch.stack([yes, no, torch.sigmoid(yes - no)], dim=1)
