"""The common part of all stages that score frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pipeline.datasets.question import Question
from pipeline.engine.output import Shard, ShardedOutput
from pipeline.inference.asked_videos import AskedVideo, asked_videos
from pipeline.inference.not_finite import BROKEN, SCORES, without_finite_scores
from pipeline.inference.visual_windows import VideoFeatures


def score_shards(
    out: ShardedOutput,
    videos: Sequence[VideoFeatures],
    by_video: Mapping[str, Sequence[Question]],
    scorer: str,
    score: Callable[[Shard, list[AskedVideo]], Mapping[str, np.ndarray]],
) -> None:
    """Write the table `frame_scores`, shard by shard.

    Args:
        by_video: the questions of each video.
        scorer: the scorer's name in messages.
        score: returns the table's columns for the readable videos of a shard that have questions, at least one.

    Raises:
        SevilaError: no question about a readable video has finite scores.
    """

    def work(shard: Shard) -> None:
        asked = asked_videos(shard.items, videos, by_video)
        ok = [each for each in asked if each.video.status == "ok" and each.questions]
        if not ok:  # without loading a model
            return shard.write_rows("frame_scores", [])
        columns = score(shard, ok)
        shard.dropped.update(SCORES for _ in without_finite_scores(columns))
        shard.write_columns("frame_scores", columns)

    out.each_shard(work)
    n_asked = sum(len(by_video[video.video_id]) for video in videos if video.status == "ok")
    out.refuse_all(SCORES, n_asked, f"{scorer} gave no question finite scores; {BROKEN}")
