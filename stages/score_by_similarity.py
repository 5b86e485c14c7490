"""Frame scores by the cosine of frame and question vectors of CLIP or SigLIP, instead of the Localizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from pydantic import Field

from pipeline.engine.output import Shard, ShardedOutput
from pipeline.engine.progress import track
from pipeline.engine.stage import Config, Plan, RunContext, stage
from pipeline.inference.asked_videos import MAX_PAIRS, AskedVideo, cut_by_pairs, n_pairs_of
from pipeline.inference.frame_scoring import score_shards
from pipeline.inference.frame_texts import texts_of_frames
from pipeline.inference.load_models import OnDemand
from pipeline.memory import Halving
from pipeline.models.prompts import Template, template_text
from pipeline.selection.frame_scores import columns_of_question, joined_columns
from stages.embed_frames import Embeddings
from stages.import_embedder import EmbedderWeights
from stages.list_questions import Questions
from stages.sample_frames import Frames
from stages.score_frames import FrameScores

BYTES_A_SCORE = 350  # at most in memory, while the table is written
TEXTS_AT_ONCE = 256


class ScoreBySimilarity(Config):
    """The text that frames are compared with."""

    template: Template = Field("{question}", description="text of a question, with {question}, {options}, {subtitles}")


def plan_scores(run: RunContext, questions: Questions, frames: Frames, features: Embeddings) -> Plan:
    """Cut the videos, and the questions of those that have many, into shards by the number of their scores."""
    max_pairs = min(MAX_PAIRS, run.shard_bytes // BYTES_A_SCORE)
    n_pairs = n_pairs_of(questions, frames, features, max_pairs)
    return Plan(cut_by_pairs(range(len(n_pairs)), n_pairs, max_pairs))


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

    `logit_yes` and `probability_yes` are the cosine, `logit_no` is 0.
    """
    videos, by_video, clips = features.videos(), features.questions_by_video(questions), frames.clips_of(questions)
    loaded = OnDemand(partial(embedder.load, run, "float32"))
    reader, halving = features.open(), Halving("score_by_similarity")
    subtitles, text = questions.subtitles_for(cfg.template), partial(template_text, cfg.template)
    n_questions = TEXTS_AT_ONCE if subtitles is None else 1  # per batch; with subtitles one may have a thousand texts

    def score(shard: Shard, ok: list[AskedVideo]) -> Mapping[str, np.ndarray]:
        pairs = [(asked.video, question) for asked in ok for question in asked.questions]
        parts: list[dict[str, np.ndarray]] = []
        loaded_id, frame_vectors = "", np.empty((0, 0), np.float32)
        for index, (video, question) in enumerate(track(pairs, shard, "question")):
            if index % n_questions == 0:
                batch = [question for _, question in pairs[index : index + n_questions]]
                texts = texts_of_frames(text, batch, clips, subtitles)
                with shard.phase("embed questions"):
                    vectors, truncated = _vectors(loaded, halving, texts.texts)
            if video.video_id != loaded_id:
                loaded_id, frame_vectors = video.video_id, reader.read(video.video_id, slice(None))
            clip, text_indices = clips[video.video_id, question.clip_id], texts.of_frames[index % n_questions]
            scores = _cosines(frame_vectors[clip["row"]], vectors, text_indices)
            parts.append(columns_of_question(question, clip, scores, truncated[text_indices]))
        return joined_columns(parts)

    score_shards(out, videos, by_video, "the embedder", score)


def _cosines(frames: np.ndarray, vectors: np.ndarray, text_indices: np.ndarray) -> np.ndarray:
    """Return the cosine [T] of each frame [T, D] and its text's vector, given as indices [T] into `vectors` [R, D]."""
    indices = np.unique(text_indices)
    if len(indices) == 1:  # without subtitles: avoids a copy of the frames' vectors
        return np.asarray(frames @ vectors[indices[0]])
    cosines = np.empty(len(frames), np.float32)
    for index in indices:
        members = text_indices == index
        cosines[members] = frames[members] @ vectors[index]
    return cosines


def _vectors(loaded: OnDemand, halving: Halving, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors of texts, [R, D] float32, and whether each was truncated, [R]."""
    starts = range(0, len(texts), TEXTS_AT_ONCE)
    parts = [part for start in starts for part in halving(loaded.model.of_texts, texts[start : start + TEXTS_AT_ONCE])]
    truncated = [is_truncated for _, batch_truncated in parts for is_truncated in batch_truncated]
    return np.concatenate([vectors.cpu().numpy() for vectors, _ in parts]), np.array(truncated)
