"""One vector a frame, for selectors that compare frames: embeddings as they are, features by their mean over tokens."""

from __future__ import annotations

import numpy as np

from pipeline.engine.stage import PooledArtifact
from pipeline.inference.visual_windows import WINDOW_FRAMES


class FrameVectors:
    """The vectors of an artifact's frames; those of the last video stay in memory."""

    def __init__(self, pooled: PooledArtifact) -> None:
        """Args: `pooled` has arrays [frames, D], [frames, tokens, D] or, of several Q-Formers, [frames, Q-Formers, tokens, D]."""
        self._reader = pooled.open()
        self._known = set(self._reader.videos)
        self._video_id = ""
        self._vectors = np.empty((0, 0), np.float32)

    def of_rows(self, video_id: str, rows: np.ndarray) -> np.ndarray | None:
        """Return the vectors of stored rows of a video, float32 [rows, D]; None if it has none."""
        if video_id not in self._known:
            return None
        if video_id != self._video_id:
            self._vectors, self._video_id = self._read(video_id), video_id
        return self._vectors[rows]

    def _read(self, video_id: str) -> np.ndarray:
        windows: list[np.ndarray] = []
        n_rows = self._reader.n_rows(video_id)
        for start in range(0, n_rows, WINDOW_FRAMES):
            window = self._reader.read(video_id, slice(start, start + WINDOW_FRAMES)).astype(np.float32)
            window = window[:, 0] if window.ndim == 4 else window  # of the first Q-Former
            windows.append(window if window.ndim == 2 else window.mean(axis=1))
        return np.concatenate(windows)
