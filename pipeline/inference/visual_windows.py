"""Cached features -> visual tokens, a bounded window of frames at a time, read ahead of the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from cache.errors import SevilaError
from pipeline.engine.stage import Artifact, PooledArtifact
from pipeline.engine.waiting import model_input
from pipeline.inference.streams import read_ahead
from pipeline.memory import Halving
from pipeline.models.transfer import to_device
from pipeline.reasons import Reason

if TYPE_CHECKING:
    import torch

# The inputs of extract_features whose Q-Formers' outputs it keeps with level = "queries", in the order of the arrays.
PROMPTS = ("localizer", "answerer")
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


def queries_of(features: PooledArtifact, weights: Artifact | None) -> int | None:
    """Return which of the stored Q-Formers' outputs are those of these weights; None where the ViT's features are stored.

    Raises:
        SevilaError: only outputs of other Q-Formers are stored.
    """
    if features.record.config.get("level") != "queries":
        return None
    prompts = [id for name in PROMPTS if (id := features.record.inputs.get(name)) is not None]
    if weights is None or weights.id not in prompts:
        whose = f"not of {weights.id}" if weights is not None else "and the ViT's features are wanted"
        raise SevilaError(
            f"{features.id} holds what the Q-Formers of {' and '.join(prompts)} made of the frames, {whose}; "
            "--set extract_features.level=features keeps what serves any"
        )
    return prompts.index(weights.id)


class Windows:
    """The visual tokens of stored frames, for one stage on one device."""

    def __init__(self, features: PooledArtifact, device: str, weights: Artifact | None) -> None:
        """Args: `weights` of the model that looks; raises as `queries_of`."""
        self._features, self._device = features, device
        self._which = queries_of(features, weights)
        self._halving = Halving("visual tokens")

    def tokens(
        self, groups: Iterable[Group], model: SeesFrames, batch_frames: int
    ) -> Iterator[tuple[dict[tuple[str, int], int], torch.Tensor]]:
        """Yield, per group, where each (video_id, row) stands in its visual tokens, and those: [F, Q, L]."""
        import torch

        def look(frames: np.ndarray) -> torch.Tensor:
            if self._which is None:
                return model.visual(to_device(frames, self._device))
            with torch.no_grad():
                return model.prompt.project(to_device(frames[:, self._which].copy(), self._device))  # type: ignore[attr-defined]

        for group, array in model_input(read_ahead(self._read(groups), depth=1)):
            batches = [array[start : start + batch_frames] for start in range(0, len(array), batch_frames)]
            visual = torch.cat([tokens for batch in batches for tokens in self._halving(look, batch)])
            places = [(video_id, row) for video_id, rows in group for row in rows]
            yield {place: number for number, place in enumerate(places)}, visual

    def _read(self, groups: Iterable[Group]) -> Iterator[tuple[Group, np.ndarray]]:
        reader = self._features.open()
        for group in groups:
            yield group, np.concatenate([reader.read(video_id, rows) for video_id, rows in group])
