"""Messages to and from a decoder process: for each request Started, chunks, Finished, or Failed or Trouble; Alive at any time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.video.chunk_memory import Chunk
from pipeline.video.frames import Clip, SampledClip, Sampling, VideoProbe


@dataclass(frozen=True)
class DecodeRequest:
    """A video and how to sample it; the frame indices follow when its length and frame rate are known."""

    path: Path
    sampling: Sampling
    clips: tuple[Clip, ...] = (Clip(),)  # at least one
    image_folder_fps: float | None = None  # required for folders of images
    digest: str | None = None  # expected SHA-256 of the bytes; None if they were not identified
    stamp: tuple[int, ...] = ()  # of the file with that digest
    is_repeated: bool = False  # the video has failed before: check the digest first
    decord_failure: str = ""  # decord's earlier error, if decord is not to be used
    held: Mapping[str, Sequence[int]] = field(default_factory=dict)  # frames already stored, by their decoder


@dataclass(frozen=True)
class Alive:
    """The process is working and has no other message yet."""


@dataclass(frozen=True)
class BytesRead:
    """The whole file was read, on a retry of a video: a later hang is not caused by the disk."""


@dataclass(frozen=True)
class Started:
    """The video can be read: its facts, and the frames of each clip."""

    probe: VideoProbe
    clips: tuple[SampledClip, ...]
    frame_indices: np.ndarray  # of the frames that follow: int64 [N], ascending


@dataclass(frozen=True)
class Finished:
    """All frames were sent."""


@dataclass(frozen=True)
class Failed:
    """The video's bytes cannot be decoded."""

    reason: str
    is_halfway: bool = False  # decord failed after it had returned frames


@dataclass(frozen=True)
class Trouble:
    """The machine failed: the bytes could not be read, or do not match the digest."""

    reason: str


Message = Started | Finished | Failed | Trouble | Chunk
