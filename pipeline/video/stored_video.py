"""Storage of a video's sampled frames in the pool in pieces, so that an interrupted decoding resumes after the last piece.

Every piece has the probe of the file, with its decoder; the last one also has the frames of each clip. Pieces by another decoder
than the last one's are ignored: the frames of a video never come from two decoders.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Any, NamedTuple

from cache.errors import DecodeError, ReadingError
from cache.pool import Part, Pool
from pipeline.video.chunk_memory import CHUNK_FRAMES
from pipeline.video.decoding import DecodeResult

STORED_FRAMES = 16 * CHUNK_FRAMES  # most frames of a piece


class StoredVideo(NamedTuple):
    """All sampled frames of a video."""

    probe: dict[str, Any]  # of the file, a `VideoProbe`
    clips: list[dict[str, Any]]  # `frame_indices` and `note` of each
    frame_indices: list[int]  # of all clips, ascending
    parts: list[Part]  # of the pool, that hold them


def stored_video(pool: Pool, key: str) -> StoredVideo | None:
    """Return the video that the pool holds under a key; None unless all its frames are there."""
    parts = pool.parts(key)
    facts = next((part.facts for part in parts if "clips" in part.facts), None)
    if facts is None:
        return None
    parts = [part for part in parts if _decoder(part) == facts["probe"]["decoder"]]
    sampled = {index for clip in facts["clips"] for index in clip["frame_indices"]}
    if not sampled.issubset(index for part in parts for index in part.frame_indices):
        return None
    return StoredVideo(facts["probe"], facts["clips"], sorted(sampled), parts)


class WrittenVideo(NamedTuple):
    """The outcome of writing a video's frames: its key, the error if it failed, and the pending publications of its pieces."""

    key: str
    error: DecodeError | ReadingError | None
    published: list[Future[None]]


def held_frames(pool: Pool, key: str) -> dict[str, list[int]]:
    """Return the frames that the pool holds of a key, by decoder."""
    held: dict[str, list[int]] = defaultdict(list)
    for part in pool.parts(key):
        held[_decoder(part)] += part.frame_indices
    return dict(held)


def store_video(
    pool: Pool,
    key: str,
    result: DecodeResult,
    publish: Callable[[Callable[[], None]], object],
    on_written: Callable[[int], object],
) -> None:
    """Write the frames of a result; the pieces before an error stay.

    Args:
        publish: called with a function that publishes a written piece, to be run in any thread.
        on_written: called with the number of frames of each piece.
    """
    assert result.probe is not None
    probe = dataclasses.asdict(result.probe)
    clips = [{"frame_indices": clip.frame_indices.tolist(), "note": clip.note} for clip in result.clips]
    for part in pool.parts(key):
        if _decoder(part) != result.probe.decoder:  # a new piece may get the same name
            pool.withdraw(part)
    frame_indices: Sequence[int] = result.frame_indices.tolist()
    for start in range(0, max(1, len(frame_indices)), STORED_FRAMES):
        piece = frame_indices[start : start + STORED_FRAMES]
        is_last = start + STORED_FRAMES >= len(frame_indices)
        frames = result.frames if is_last else islice(result.frames, STORED_FRAMES // CHUNK_FRAMES)
        facts = {"probe": probe, "clips": clips} if is_last else {"probe": probe}
        publish(pool.write(key, piece, (result.size, result.size, 3), "uint8", frames, facts))
        on_written(len(piece))


def _decoder(part: Part) -> str:
    return str(part.facts["probe"]["decoder"])
