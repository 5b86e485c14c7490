"""Videos and their questions as items of a plan: the questions about one video can be asked in several shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pipeline.batching import cut
from pipeline.datasets.question import Question
from pipeline.inference.visual_windows import VideoFeatures

# A pair takes about 600 bytes until its shard is written. A shard that goes on with a video reads its frames once more.
MAX_PAIRS = 1 << 20

# The number of a video, or that of one with many questions and which of these: from, to.
Item = int | Sequence[int]


class AskedVideo(NamedTuple):
    """A video and the questions about it that one shard asks."""

    video: VideoFeatures
    questions: Sequence[Question]


def cut_by_pairs(
    numbers: Sequence[int], n_frames: Sequence[int], n_questions: Sequence[int], max_pairs: int
) -> list[list[Item]]:
    """Cut videos, with all their questions, into runs of items of at most this many (question, frame) pairs, or of one question.

    Args:
        numbers: of the videos.
        n_frames: of each video that there is, by its number.
        n_questions: likewise.
        max_pairs: at most so many pairs in a run.
    """
    items: list[Item] = []
    n_pairs: list[int] = []
    for number in numbers:
        n, at_once = n_questions[number], max(1, max_pairs // max(1, n_frames[number]))
        parts = [(start, min(start + at_once, n)) for start in range(0, n, at_once)] or [(0, 0)]
        items += [number] if len(parts) == 1 else [(number, start, stop) for start, stop in parts]
        n_pairs += [(stop - start) * n_frames[number] for start, stop in parts]
    return [[items[at] for at in run] for run in cut(n_pairs, max_pairs)]


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
