"""The table of clips' frames as columns: whether it is in the order of time, and checksums of the frames of each clip."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from zlib import crc32

import numpy as np

from pipeline.datasets.question import QuestionClip
from pipeline.video.frames import Clips

Runs = Mapping[tuple[str, str], slice]  # by video id and clip id


def disorder_of(table: Mapping[str, np.ndarray], runs: Runs) -> str:
    """Return where `row`, `frame_index` and `seconds` of a clip's frames, [N] each, do not ascend together; empty if nowhere."""
    columns = [table[name] for name in ("row", "frame_index", "seconds")]
    rows, indices, seconds = (each[1:] == each[:-1] for each in columns)
    wrong = np.logical_or.reduce([each[1:] < each[:-1] for each in columns]) | (rows != indices) | (indices != seconds)
    wrong[[where.start - 1 for where in runs.values() if where.start]] = False
    if not wrong.any():
        return ""
    at = int(wrong.argmax()) + 1
    video_id, clip_id = next(clip for clip, where in runs.items() if where.start <= at < where.stop)
    actual = ", ".join(f"{name} {values[at]} after {values[at - 1]}" for name, values in table.items())
    return f"row {at} of its frames (video {video_id!r}, clip {clip_id!r}): {actual}; expected the order of time"


def n_rows_of_videos(rows: np.ndarray, runs: Runs) -> list[tuple[str, int]]:
    """Return the number of stored frames of each video, by its clips' rows, [N] int32; -1 if these are not 0, 1, ..."""
    of_videos: dict[str, list[np.ndarray]] = defaultdict(list)
    for (video_id, _), where in runs.items():
        of_videos[video_id].append(rows[where])
    distinct = ((id, np.unique(np.concatenate(of_video))) for id, of_video in of_videos.items())
    return [(id, len(of_video) if of_video[-1] == len(of_video) - 1 else -1) for id, of_video in distinct]


def digest_of_frames(frame_indices: np.ndarray) -> int:
    """Return the number of a clip's frames, [T] int64 in the video, in the bits from 32, and below these their checksum."""
    return len(frame_indices) << 32 | crc32(frame_indices.tobytes())


def digests_of_clips(
    clips: Clips, questions: Iterable[QuestionClip], video_ids: Collection[str]
) -> list[tuple[str, int]]:
    """Return the id of each question about one of these videos, with the `digest_of_frames` of its clip, 0 if that has none."""
    digests = {clip: digest_of_frames(of_clip["frame_index"]) for clip, of_clip in clips.items()}
    of_videos = (row for row in questions if row.video_id in video_ids)
    return [(row.question_id, digests.get((row.video_id, row.clip_id), 0)) for row in of_videos]
