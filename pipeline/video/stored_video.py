"""A video's sampled frames in the pool, piece by piece: one whose decoding is interrupted goes on after its last piece.

Every piece notes the facts of the file and its decoder; the last one that is written, the frames of each clip too. A piece by
another decoder than that one's is none of the video's: two decoders never share a video's frames.
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

STORED_FRAMES = 16 * CHUNK_FRAMES  # stored together, of a video that has more


class StoredVideo(NamedTuple):
    """All sampled frames of a video: facts of its file, the frames of each clip, all of them (ascending), where they lie."""

    probe: dict[str, Any]
    clips: list[dict[str, Any]]
    frame_indices: list[int]
    parts: list[Part]


def stored_video(pool: Pool, key: str) -> StoredVideo | None:
    """Return what the pool holds under a key; None unless that is all frames."""
    parts = pool.parts(key)
    facts = next((part.facts for part in parts if "clips" in part.facts), None)
    if facts is None:
        return None
    parts = [part for part in parts if _decoder(part) == facts["probe"]["decoder"]]
    wanted = {index for clip in facts["clips"] for index in clip["frame_indices"]}
    if not wanted.issubset(index for part in parts for index in part.frame_indices):
        return None
    return StoredVideo(facts["probe"], facts["clips"], sorted(wanted), parts)


class WrittenVideo(NamedTuple):
    """A video whose frames are written: its key, the error if that is impossible, and what publishes its pieces."""

    key: str
    error: DecodeError | ReadingError | None
    published: list[Future[None]]


def held_frames(pool: Pool, key: str) -> dict[str, list[int]]:
    """Return, by decoder, the frames of a key that the pool holds."""
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
    """Write the frames of a result; pieces before an error stay.

    Args:
        publish: is called with what publishes each piece that is written, and may have it done by any thread.
        on_written: is called with the length of each piece.
    """
    assert result.probe is not None
    probe = dataclasses.asdict(result.probe)
    clips = [{"frame_indices": clip.frame_indices.tolist(), "note": clip.note} for clip in result.clips]
    for part in pool.parts(key):
        if _decoder(part) != result.probe.decoder:  # its name may be that of a piece to come
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
