"""What a decoder process is asked, and its answers: Alive at any time; Started, chunks, Finished; or else Failed or Trouble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.video.chunk_memory import Chunk
from pipeline.video.frames import Clip, SampledClip, Sampling, VideoProbe


@dataclass(frozen=True)
class DecodeRequest:
    """One video and the frames wanted of it; which these are is decided when its length and rate are known."""

    path: Path
    sampling: Sampling
    clips: tuple[Clip, ...] = (Clip(),)
    image_folder_fps: float | None = None  # needed for folders of images only
    digest: str | None = None  # SHA-256 of the bytes that are meant, if they were identified
    stamp: tuple[int, ...] = ()  # of the file with that digest
    is_repeated: bool = False  # it has failed before: the digest is to be checked first
    decord_failure: str = ""  # why decord is not to be tried: its message of before
    held: Mapping[str, Sequence[int]] = field(
        default_factory=dict
    )  # frames that are not wanted again, by their decoder


@dataclass(frozen=True)
class Alive:
    """Nothing to show yet, but not hanging."""


@dataclass(frozen=True)
class BytesRead:
    """All of the file was read, at the second try at a video: what hangs from now on is not the disk."""


@dataclass(frozen=True)
class Started:
    """The video can be read; what is known of it, and the frames of each clip."""

    probe: VideoProbe
    clips: tuple[SampledClip, ...]
    frame_indices: np.ndarray  # of the frames that will come: int64 [N], ascending


@dataclass(frozen=True)
class Finished:
    """All frames have come."""


@dataclass(frozen=True)
class Failed:
    """For the sake of the video's bytes."""

    reason: str
    is_halfway: bool = False  # decord, after it had given frames


@dataclass(frozen=True)
class Trouble:
    """The machine's: the bytes could not be read, or were not those that were identified."""

    reason: str


Message = Started | Finished | Failed | Trouble | Chunk
