"""Frames scored by how near a vector of theirs is to the question's: CLIP or SigLIP in the Localizer's place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from pydantic import Field

from pipeline.batching import cut
from pipeline.engine.output import Shard, ShardedOutput
from pipeline.engine.progress import track
from pipeline.engine.stage import Config, Plan, RunContext, stage
from pipeline.inference.frame_scoring import score_shards
from pipeline.inference.frame_texts import texts_of_frames
from pipeline.inference.load_models import OnDemand
from pipeline.inference.visual_windows import VideoFeatures
from pipeline.memory import Halving
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

    template: Template = Field("{question}", description="text of a question, of {question}, {options} and {subtitles}")


def plan_scores(run: RunContext, questions: Questions, features: Embeddings) -> Plan:
    """Cut the videos into shards by the number of their scores."""
    by_video = features.questions_by_video(questions)
    sizes = [video.n_frames * len(by_video[video.video_id]) * BYTES_A_SCORE for video in features.videos()]
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
    videos, by_video, clips = features.videos(), features.questions_by_video(questions), frames.clips_of(questions)
    loaded = OnDemand(partial(embedder.load, run, "float32"))
    reader, halving = features.open(), Halving("score_by_similarity")
    subtitles, text = questions.subtitles_for(cfg.template), partial(template_text, cfg.template)
    at_once = TEXTS_AT_ONCE if subtitles is None else 1  # questions; with subtitles one may have a thousand texts

    def score(shard: Shard, ok: list[VideoFeatures]) -> Mapping[str, np.ndarray]:
        pairs = [(video, question) for video in ok for question in by_video[video.video_id]]
        parts: list[dict[str, np.ndarray]] = []
        of_video, frame_vectors = "", np.empty((0, 0), np.float32)
        for number, (video, question) in enumerate(track(pairs, shard, "question")):
            if number % at_once == 0:
                texts = texts_of_frames(text, [each for _, each in pairs[number : number + at_once]], clips, subtitles)
                with shard.phase("embed questions"):
                    vectors, truncated = _vectors(loaded, halving, texts.texts)
            if video.video_id != of_video:
                of_video, frame_vectors = video.video_id, reader.read(video.video_id, slice(None))
            clip, texts_of_clip = clips[video.video_id, question.clip_id], texts.of_frames[number % at_once]
            scores = _cosines(frame_vectors[clip["row"]], vectors, texts_of_clip)
            parts.append(columns_of_question(question, clip, scores, truncated[texts_of_clip]))
        return joined_columns(parts)

    score_shards(out, videos, by_video, "the embedder", score)


def _cosines(frames: np.ndarray, vectors: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Return the cosine [T] of each frame [T, D] with that of the vectors [R, D] whose number `texts` [T] has."""
    numbers = np.unique(texts)
    if len(numbers) == 1:  # without subtitles: no copy of the frames' vectors
        return np.asarray(frames @ vectors[numbers[0]])
    cosines = np.empty(len(frames), np.float32)
    for text in numbers:
        here = texts == text
        cosines[here] = frames[here] @ vectors[text]
    return cosines


def _vectors(loaded: OnDemand, halving: Halving, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors of texts, [R, D] float32, and which were cut, [R]."""
    starts = range(0, len(texts), TEXTS_AT_ONCE)
    parts = [part for at in starts for part in halving(loaded.model.of_texts, texts[at : at + TEXTS_AT_ONCE])]
    truncated = [was_cut for _, cut_texts in parts for was_cut in cut_texts]
    return np.concatenate([vectors.cpu().numpy() for vectors, _ in parts]), np.array(truncated)
