"""Conversion of cached features to visual tokens in windows of frames, read ahead of the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from cache.errors import SevilaError
from pipeline.engine.input_wait import model_input
from pipeline.engine.pooled import PooledArtifact
from pipeline.engine.stage import Artifact
from pipeline.inference.streams import read_ahead
from pipeline.memory import Halving
from pipeline.models.transfer import to_device
from pipeline.reasons import Reason

if TYPE_CHECKING:
    import torch

# Inputs of extract_features whose Q-Formers' outputs are stored with level = "queries", in the order of the arrays.
PROMPTS = ("localizer", "answerer")
WINDOW_FRAMES = 256  # 185 MB of ViT-g features; up to four windows are in memory, including those read ahead
MOST_WAITING_FRAMES = 512  # 134 MB of Flan-T5-XL's visual tokens; of questions that wait for the next window's


class VideoFeatures(NamedTuple):
    """A video and its number of frames with features."""

    video_id: str
    status: str  # ok or failed
    reason: Reason
    n_frames: int  # with stored features


class SeesFrames(Protocol):
    """A model that encodes frames independently of questions: Localizer, Answerer, image-text matching."""

    def visual(self, features: torch.Tensor) -> torch.Tensor:
        """Return visual tokens [F, Q, L] of stored features [F, P, D]."""


Group = list[tuple[str, list[int]]]  # (video id, stored rows, ascending) of some videos


def queries_of(features: PooledArtifact, weights: Artifact | None) -> int | None:
    """Return the index of these weights among the stored Q-Formers' outputs; None if the ViT's features are stored.

    Raises:
        SevilaError: only outputs of other Q-Formers are stored.
    """
    if features.record.config.get("level") != "queries":
        return None
    prompts = [id for name in PROMPTS if (id := features.record.inputs.get(name)) is not None]
    if weights is None or weights.id not in prompts:
        expected = f"those of {weights.id}" if weights is not None else "the ViT's features"
        raise SevilaError(
            f"{features.id}: found the outputs of the Q-Formers of {' and '.join(prompts)}; expected {expected}: "
            "--set extract_features.level=features stores the ViT's features, which serve any Q-Former"
        )
    return prompts.index(weights.id)


class Windows:
    """The visual tokens of stored frames, for one stage on one device."""

    def __init__(self, features: PooledArtifact, device: str, weights: Artifact | None) -> None:
        """Args: `weights` of the model that encodes them. Raises as `queries_of`."""
        self._features, self._device = features, device
        self._prompt_index = queries_of(features, weights)
        self._halving = Halving("visual tokens")

    def tokens(
        self, groups: Iterable[Group], model: SeesFrames, batch_frames: int
    ) -> Iterator[tuple[dict[tuple[str, int], int], torch.Tensor]]:
        """Yield for each group the index of each (video_id, row) in its visual tokens, and these: [F, Q, L]."""
        import torch

        def encode(frames: np.ndarray) -> torch.Tensor:
            if self._prompt_index is None:
                return model.visual(to_device(frames, self._device))
            with torch.no_grad():
                queried = to_device(frames[:, self._prompt_index].copy(), self._device)
                return model.prompt.project(queried)  # type: ignore[attr-defined]

        for group, array in model_input(read_ahead(self._read(groups), depth=1)):
            batches = np.array_split(array, -(-len(array) // batch_frames))  # of equal size: 86, 85 and 85 of 256
            visual = torch.cat([tokens for batch in batches for tokens in self._halving(encode, batch)])
            frames = [(video_id, row) for video_id, rows in group for row in rows]
            yield {frame: index for index, frame in enumerate(frames)}, visual

    def _read(self, groups: Iterable[Group]) -> Iterator[tuple[Group, np.ndarray]]:
        reader = self._features.open()
        for group in groups:
            yield group, np.concatenate([reader.read(video_id, rows) for video_id, rows in group])
