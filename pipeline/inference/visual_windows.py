"""Cached features -> visual tokens, a bounded window of frames at a time, read ahead of the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from pipeline.engine.stage import PooledArtifact
from pipeline.inference.streams import read_ahead
from pipeline.memory import Halving
from pipeline.models.transfer import to_device
from pipeline.reasons import Reason

if TYPE_CHECKING:
    import torch

WINDOW_FRAMES = 256  # 185 MB of ViT-g features; up to four windows are in memory, the ones read ahead included


class VideoFeatures(NamedTuple):
    """A video and how many of its frames have features; why there are none, where there are none."""

    video_id: str
    status: str  # ok or failed
    reason: Reason
    n_frames: int


class SeesFrames(Protocol):
    """A model that looks at frames once, whatever is asked about them: Localizer, Answerer, image-text matching."""

    def visual(self, features: torch.Tensor) -> torch.Tensor:
        """Return visual tokens [F, Q, L] of stored features [F, P, D]."""


Group = list[tuple[str, list[int]]]  # stored rows, ascending, of some videos


class Windows:
    """The visual tokens of stored frames, for one stage on one device."""

    def __init__(self, features: PooledArtifact, device: str) -> None:
        self._features, self._device = features, device
        self._halving = Halving("visual tokens")

    def tokens(
        self, groups: Iterable[Group], model: SeesFrames, batch_frames: int
    ) -> Iterator[tuple[dict[tuple[str, int], int], torch.Tensor]]:
        """Yield, per group, where each (video_id, row) stands in its visual tokens, and those: [F, Q, L]."""
        import torch

        def look(frames: np.ndarray) -> torch.Tensor:
            return model.visual(to_device(frames, self._device))

        for group, array in read_ahead(self._read(groups), depth=1):
            batches = [array[start : start + batch_frames] for start in range(0, len(array), batch_frames)]
            visual = torch.cat([tokens for batch in batches for tokens in self._halving(look, batch)])
            places = [(video_id, row) for video_id, rows in group for row in rows]
            yield {place: number for number, place in enumerate(places)}, visual

    def _read(self, groups: Iterable[Group]) -> Iterator[tuple[Group, np.ndarray]]:
        reader = self._features.open()
        for group in groups:
            yield group, np.concatenate([reader.read(video_id, rows) for video_id, rows in group])
