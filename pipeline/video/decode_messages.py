"""Messages of a decoder process: Alive at any time; Started, chunks of frames, Finished; or Failed or Trouble instead."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.video.frames import SampledClip, VideoProbe


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


Message = Started | Finished | Failed | Trouble | np.ndarray
