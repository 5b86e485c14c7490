"""The course of every stage that scores frames, whoever scores them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pipeline.datasets.question import Question
from pipeline.engine.output import Shard, ShardedOutput
from pipeline.inference.not_finite import BROKEN, SCORES, without_finite_scores
from pipeline.inference.visual_windows import VideoFeatures


def score_shards(
    out: ShardedOutput,
    videos: Sequence[VideoFeatures],
    asked: Mapping[str, Sequence[Question]],
    scorer: str,
    score: Callable[[Shard, list[VideoFeatures]], Mapping[str, np.ndarray]],
) -> None:
    """Write the table `frame_scores`, shard by shard.

    Args:
        asked: the questions of each video.
        scorer: who scores, for people.
        score: returns the table's columns for the videos of a shard that can be read and are asked about, at least one.

    Raises:
        SevilaError: no question about a video that could be read has finite scores.
    """

    def work(shard: Shard) -> None:
        ok = [videos[item] for item in shard.items if videos[item].status == "ok" and asked[videos[item].video_id]]
        if not ok:  # nothing to load a model for
            return shard.write_rows("frame_scores", [])
        columns = score(shard, ok)
        shard.dropped.update(SCORES for _ in without_finite_scores(columns))
        shard.write_columns("frame_scores", columns)

    out.each_shard(work)
    n_asked = sum(len(asked[video.video_id]) for video in videos if video.status == "ok")
    out.refuse_all(SCORES, n_asked, f"{scorer} gave no question finite scores; {BROKEN}")
