"""The Localizer with several frames (SeViLA, table 12): a stretch of W neighbouring frames as one long image for the Q-Former.

The Q-Former's cross-attention has no positions, so it reads the patches of W frames like those of one, and the language model
gets as many visual tokens as for one frame. All frames of a stretch get its score.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from pipeline.datasets.question import Question
from pipeline.engine.output import Shard
from pipeline.engine.pooled import PooledArtifact
from pipeline.engine.progress import track
from pipeline.engine.stage import RunContext
from pipeline.inference.frame_by_frame import Asker, FrameValues
from pipeline.inference.visual_windows import queries_of
from pipeline.memory import Halving
from pipeline.models.transfer import to_device
from pipeline.video.frames import Clips

if TYPE_CHECKING:
    from torch import Tensor

FramesAtOnce = Annotated[
    int, Field(ge=1, description="neighbouring frames that the Localizer reads as one long image (paper table 12: 4)")
]


def stretches_of(n_frames: int, size: int) -> np.ndarray:
    """Return a clip's stretches of `size` frames as positions, int64 [N, size]; the last one is padded with its last frame."""
    starts = np.arange(0, n_frames, size)
    return np.minimum(starts[:, None] + np.arange(size), n_frames - 1)


def long_images(features: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return the features [N, W * P, D] of stretches `where` [N, W] of frames [F, P, D]."""
    return features[where].reshape(len(where), -1, features.shape[-1])


class StretchByStretch:
    """Asks questions about stretches of their clips, for one stage; one question's clip at a time."""

    def __init__(self, clips: Clips, features: PooledArtifact, run: RunContext, name: str, size: int) -> None:
        """Args: `name` of the stage, for its log; `size` of a stretch in frames.

        Raises:
            SevilaError: the ViT's features are not stored.
        """
        queries_of(features, None)
        self._clips, self._size = clips, size
        self._reader = cache(features.open)
        self._device, self._halving = run.torch_device(), Halving(name)

    def ask(
        self,
        asker: Asker,
        questions: Sequence[Question],
        shard: Shard,
        texts: Sequence[np.ndarray],
    ) -> FrameValues:
        """Ask at least one question about every stretch of its clip; arguments as for `FrameByFrame.ask`.

        A stretch is asked with the text of its first frame.
        """
        clips = [self._clips[question.video_id, question.clip_id] for question in questions]
        values: list[np.ndarray] = []
        last: tuple[tuple[str, str], Tensor] | None = None  # key and visual tokens of the last clip
        for number, question in enumerate(track(questions, shard, "question")):
            clip, key = clips[number], (question.video_id, question.clip_id)
            stretches = stretches_of(len(clip["row"]), self._size)
            if last is None or last[0] != key:
                batch_images = max(1, shard.settings["batch_frames"] // self._size)
                last = key, self._encode(asker, question.video_id, clip["row"][stretches], batch_images)
            of_stretches = self._ask(asker, last[1], texts[number][stretches[:, 0]], shard.settings["batch_tokens"])
            values.append(of_stretches.repeat(self._size, axis=0)[: len(clip["row"])])
        return FrameValues.of_clips(questions, clips, np.concatenate(values), texts)

    def _encode(self, asker: Asker, video_id: str, rows: np.ndarray, batch_images: int) -> Tensor:
        """Return the visual tokens [N, Q, L] of stretches of stored rows [N, W]."""
        import torch

        reader = self._reader()

        def encode(batch: np.ndarray) -> Tensor:
            distinct, where = np.unique(batch, return_inverse=True)
            features = reader.read(video_id, distinct.tolist())
            return asker.model.visual(to_device(long_images(features, where.reshape(batch.shape)), self._device))

        batches = [rows[start : start + batch_images] for start in range(0, len(rows), batch_images)]
        return torch.cat([tokens for batch in batches for tokens in self._halving(encode, batch)])

    def _ask(self, asker: Asker, visual: Tensor, texts: np.ndarray, batch_tokens: int) -> np.ndarray:
        """Return the values [N, n_values] float64 of N stretches with the texts [N]."""
        n_tokens = visual.shape[1] + asker.n_prefix_tokens + max(asker.lengths[text] for text in set(texts.tolist()))
        size = max(1, batch_tokens // n_tokens)

        def ask(items: np.ndarray) -> np.ndarray:
            tokens = visual[int(items[0]) : int(items[-1]) + 1]
            return asker.ask(tokens, texts[items].tolist()).double().cpu().numpy()

        numbers = np.arange(len(visual))
        batches = [numbers[start : start + size] for start in range(0, len(visual), size)]
        return np.concatenate([values for batch in batches for values in self._halving(ask, batch)])
