"""The Localizer of several frames (SeViLA, table 12): neighbouring frames side by side as one long image for the Q-Former.

The Q-Former has no positions of its own for what it attends to, and takes the patches of W frames as those of one; the language
model then sees as many visual tokens as of one frame. Every frame of a stretch has the stretch's score.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from pipeline.datasets.question import Question
from pipeline.engine.output import Shard
from pipeline.engine.progress import track
from pipeline.engine.stage import PooledArtifact, RunContext
from pipeline.inference.frame_by_frame import Asker, FrameValues
from pipeline.inference.visual_windows import VideoFeatures, queries_of
from pipeline.memory import Halving
from pipeline.models.transfer import to_device
from pipeline.video.frames import Clips

if TYPE_CHECKING:
    from torch import Tensor

FramesAtOnce = Annotated[
    int, Field(ge=1, description="neighbouring frames that the Localizer reads as one long image (paper table 12: 4)")
]


def stretches_of(n_frames: int, size: int) -> np.ndarray:
    """Return a clip's stretches of `size` frames as positions, int64 [N, size]; a short last one repeats its last frame."""
    starts = np.arange(0, n_frames, size)
    return np.minimum(starts[:, None] + np.arange(size), n_frames - 1)


def long_images(features: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return the features [N, W * P, D] of stretches `where` [N, W] of frames [F, P, D]."""
    images = features[where]
    return images.reshape(len(where), -1, features.shape[-1])


class StretchByStretch:
    """Asks questions about stretches of their clips, for one stage; a clip of a question at a time."""

    def __init__(self, clips: Clips, features: PooledArtifact, run: RunContext, name: str, size: int) -> None:
        """Args: `name` of the stage, for its log; `size` of a stretch in frames.

        Raises:
            SevilaError: the ViT's features are not kept.
        """
        queries_of(features, None)
        self._clips, self._size = clips, size
        self._reader = cache(features.open)
        self._device, self._halving = run.torch_device(), Halving(name)

    def ask(
        self,
        asker: Asker,
        questions: Sequence[Question],
        videos: Sequence[VideoFeatures],
        shard: Shard,
        texts: Sequence[np.ndarray],
    ) -> FrameValues:
        """Ask at least one question about every stretch of its clip, in these videos; as `FrameByFrame.ask`.

        A stretch is asked the text of its first frame.
        """
        clips = [self._clips[question.video_id, question.clip_id] for question in questions]
        values: list[np.ndarray] = []
        seen: tuple[tuple[str, str], Tensor] | None = None
        for number, question in enumerate(track(questions, shard, "question")):
            clip, which = clips[number], (question.video_id, question.clip_id)
            stretches = stretches_of(len(clip["row"]), self._size)
            if seen is None or seen[0] != which:
                batch_images = max(1, shard.settings["batch_frames"] // self._size)
                seen = which, self._look(asker, question.video_id, clip["row"][stretches], batch_images)
            of_stretches = self._ask(asker, seen[1], texts[number][stretches[:, 0]], shard.settings["batch_tokens"])
            values.append(of_stretches.repeat(self._size, axis=0)[: len(clip["row"])])
        return FrameValues.of_clips(questions, clips, np.concatenate(values), texts)

    def _look(self, asker: Asker, video_id: str, rows: np.ndarray, batch_images: int) -> Tensor:
        """Return the visual tokens [N, Q, L] of stretches of stored rows [N, W]."""
        import torch

        reader = self._reader()

        def look(part: np.ndarray) -> Tensor:
            stored, where = np.unique(part, return_inverse=True)
            features = reader.read(video_id, stored.tolist())
            return asker.model.visual(to_device(long_images(features, where.reshape(part.shape)), self._device))

        batches = [rows[start : start + batch_images] for start in range(0, len(rows), batch_images)]
        return torch.cat([tokens for batch in batches for tokens in self._halving(look, batch)])

    def _ask(self, asker: Asker, visual: Tensor, texts: np.ndarray, batch_tokens: int) -> np.ndarray:
        """Return what is said about each of N stretches, asked these texts [N]: [N, n_values] float64."""
        n_tokens = visual.shape[1] + asker.n_prefix_tokens + max(asker.lengths[text] for text in set(texts.tolist()))
        size = max(1, batch_tokens // n_tokens)

        def ask(items: np.ndarray) -> np.ndarray:
            tokens = visual[int(items[0]) : int(items[-1]) + 1]
            return asker.ask(tokens, texts[items].tolist()).double().cpu().numpy()

        numbers = np.arange(len(visual))
        batches = [numbers[start : start + size] for start in range(0, len(visual), size)]
        return np.concatenate([values for batch in batches for values in self._halving(ask, batch)])
