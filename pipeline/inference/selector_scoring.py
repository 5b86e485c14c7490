"""What a trained selector reads: a vector of each frame, the mean of the Answerer's visual tokens, and one of each question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from pipeline.inference.visual_windows import WINDOW_FRAMES, VideoFeatures, Windows
from pipeline.memory import Halving

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.answerer import Answerer

TEXTS_AT_ONCE = 64


def frame_vectors(
    windows: Windows, answerer: Answerer, videos: Sequence[VideoFeatures], batch_frames: int
) -> Iterator[Tensor]:
    """Yield the vectors of each video's stored frames, [F, L] float32 on the device."""
    import torch

    groups = [
        [(video.video_id, list(range(start, min(start + WINDOW_FRAMES, video.n_frames))))]
        for video in videos
        for start in range(0, video.n_frames, WINDOW_FRAMES)
    ]
    read = windows.tokens(groups, answerer, batch_frames)
    for video in videos:
        n_groups = -(-video.n_frames // WINDOW_FRAMES)
        yield torch.cat([next(read)[1].mean(dim=1) for _ in range(n_groups)])


def question_vectors(answerer: Answerer, halving: Halving, texts: Sequence[str]) -> tuple[Tensor, list[bool]]:
    """Return the vectors of texts, [R, L] float32, and which texts were cut."""
    import torch

    from pipeline.models.frame_selector import text_vectors

    ids, truncated = answerer.language.verbalizer.tokenize(texts)
    vectors, starts = partial(text_vectors, answerer.language), range(0, len(texts), TEXTS_AT_ONCE)
    parts = [part for start in starts for part in halving(vectors, ids[start : start + TEXTS_AT_ONCE])]
    return torch.cat(parts), list(truncated)
