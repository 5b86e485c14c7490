"""Videos and their questions as items of a plan: the questions about one video can be asked in several shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pipeline.batching import cut, runs_of
from pipeline.datasets.question import Question
from pipeline.engine.stage import Artifact
from pipeline.inference.visual_windows import VideoFeatures

# A pair takes about 600 bytes until its shard is written. A shard that goes on with a video reads its frames once more.
MAX_PAIRS = 1 << 20

# The number of a video, or that of one with many questions and which of these: from, to.
Item = int | Sequence[int]


class AskedVideo(NamedTuple):
    """A video and the questions about it that one shard asks."""

    video: VideoFeatures
    questions: Sequence[Question]


def n_pairs_of(questions: Artifact, frames: Artifact, features: Artifact, max_pairs: int) -> list[list[int]]:
    """Return the number of (question, frame) pairs of each question about each video, as Features has the videos.

    Counted by the video's stored frames, or by the frames that were wanted of each clip if that is more, as a short clip repeats
    frames; if that exceeds `max_pairs` for any video, by the frames of each question's clip.
    """
    videos, wanted = features.columns("videos", "video_id", "n_frames"), int(frames.record.config.get("frames", 0))
    n_stored = zip(videos["video_id"], videos["n_frames"].tolist(), strict=True)
    n_frames = {id: max(n, wanted) if n else 0 for id, n in n_stored}
    counts = Counter(questions.column("questions", "video_id"))
    if all(n * counts[id] <= max_pairs for id, n in n_frames.items()):
        return [[n] * counts[id] for id, n in n_frames.items()]
    clips = runs_of(*frames.columns("frames", "video_id", "clip_id").values())
    n_pairs: dict[str, list[int]] = {id: [] for id in n_frames}
    for clip in zip(*questions.columns("questions", "video_id", "clip_id").values(), strict=True):
        where = clips.get(clip, slice(0, 0))
        n_pairs.setdefault(clip[0], []).append(where.stop - where.start)
    return [n_pairs[id] for id in n_frames]


def cut_by_pairs(numbers: Sequence[int], n_pairs: Sequence[Sequence[int]], max_pairs: int) -> list[list[Item]]:
    """Cut videos, by number, with all their questions into runs of items of at most `max_pairs` pairs, or of one question.

    Args:
        numbers: of the videos.
        n_pairs: of each question about each video, by the video's number.
        max_pairs: at most so many in a run.
    """
    items: list[Item] = []
    sizes: list[int] = []
    for number in numbers:
        parts = cut(n_pairs[number], max_pairs) or [[]]
        items += [number] if len(parts) == 1 else [(number, part[0], part[-1] + 1) for part in parts]
        sizes += [sum(n_pairs[number][question] for question in part) for part in parts]
    return [[items[at] for at in run] for run in cut(sizes, max_pairs)]


def asked_videos(
    items: Sequence[Item], videos: Sequence[VideoFeatures], by_video: Mapping[str, Sequence[Question]]
) -> list[AskedVideo]:
    """Return the videos of a shard's items with their questions, which may be none."""
    asked = []
    for item in items:
        number, *part = [item] if isinstance(item, int) else item
        questions = by_video[videos[number].video_id]
        asked.append(AskedVideo(videos[number], questions[slice(*part)] if part else questions))
    return asked
