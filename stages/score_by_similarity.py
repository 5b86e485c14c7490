"""Frames scored by how near a vector of theirs is to the question's: CLIP or SigLIP in the Localizer's place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from pydantic import Field

from pipeline.batching import cut
from pipeline.datasets.question import Question
from pipeline.engine.output import Shard, ShardedOutput
from pipeline.engine.progress import track
from pipeline.engine.stage import Config, Plan, RunContext, stage
from pipeline.inference.load_models import OnDemand
from pipeline.models.prompts import Template, template_text
from pipeline.selection.frame_scores import columns_of_question, joined_columns
from stages.embed_frames import Embeddings
from stages.import_embedder import EmbedderWeights
from stages.list_questions import Questions
from stages.sample_frames import Frames
from stages.score_frames import FrameScores

BYTES_A_SCORE = 64  # a row of the table, in memory
TEXTS_AT_ONCE = 256


class ScoreBySimilarity(Config):
    """What frames are compared with."""

    template: Template = Field("{question}", description="text of a question, of {question} and {options}")


def plan_scores(run: RunContext, questions: Questions, features: Embeddings) -> Plan:
    """Cut the videos into shards by the number of their scores."""
    asked = features.questions_by_video(questions)
    sizes = [video.n_frames * len(asked[video.video_id]) * BYTES_A_SCORE for video in features.videos()]
    return Plan(cut(sizes, run.shard_bytes))


@stage(version=1, output=FrameScores, plan=plan_scores, gpu=True)
def score_by_similarity(
    cfg: ScoreBySimilarity,
    run: RunContext,
    questions: Questions,
    frames: Frames,
    features: Embeddings,
    embedder: EmbedderWeights,
    *,
    out: ShardedOutput,
) -> None:
    """Score every frame of every question's clip by the cosine of its vector and the question's.

    It stands in `logit_yes` and `probability_yes`, and `logit_no` is 0.
    """
    videos, asked, clips = features.videos(), features.questions_by_video(questions), frames.clips_of(questions)
    loaded = OnDemand(partial(embedder.load, run, "float32"))
    reader = features.open()

    def work(shard: Shard) -> None:
        ok = [videos[item] for item in shard.items if videos[item].status == "ok"]
        pairs = [(video, question) for video in ok for question in asked[video.video_id]]
        if not pairs:
            return shard.write_rows("frame_scores", [])
        with shard.phase("embed questions"):
            vectors, truncated = _vectors(loaded, cfg, [question for _, question in pairs])
        parts: list[dict[str, np.ndarray]] = []
        of_video, frame_vectors = "", np.empty((0, 0), np.float32)
        for number, (video, question) in enumerate(track(pairs, shard, "question")):
            if video.video_id != of_video:
                of_video, frame_vectors = video.video_id, reader.read(video.video_id, slice(None))
            clip = clips[video.video_id, question.clip_id]
            scores = frame_vectors[clip["row"]] @ vectors[number]
            parts.append(columns_of_question(question, clip, scores, truncated[number]))
        shard.write_columns("frame_scores", joined_columns(parts))

    out.each_shard(work)


def _vectors(loaded: OnDemand, cfg: ScoreBySimilarity, questions: Sequence[Question]) -> tuple[np.ndarray, list[bool]]:
    """Return the questions' vectors, [R, D] float32, and whose text was cut."""
    texts = [template_text(cfg.template, question) for question in questions]
    parts = [
        loaded.model.of_texts(texts[start : start + TEXTS_AT_ONCE]) for start in range(0, len(texts), TEXTS_AT_ONCE)
    ]
    truncated = [was_cut for _, cut_texts in parts for was_cut in cut_texts]
    return np.concatenate([vectors.cpu().numpy() for vectors, _ in parts]), truncated
