"""Frame selectors trained with the answers' loss: a small transformer scores all frames of a clip together.

ATP (Buch et al., "Revisiting the Video in Video-Language Understanding", CVPR 2022), whose sizes are used, selects one frame;
differentiable top-k (Cordonnier et al., CVPR 2021: `perturbed_top_k.py`) selects k. SeViLA applies both after the Q-Former.
Shapes: R rows (a question each), T frames, F stored frames of a video, L width of the language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.checkpoint import fill
from pipeline.models.keys import OWN
from pipeline.models.language import Language
from pipeline.models.perturbed_top_k import perturbed_top_k
from pipeline.models.tensors import open_checkpoint
from pipeline.models.transfer import to_device

WIDTH, LAYERS, HEADS, DROPOUT = 128, 2, 2, 0.1  # as in ATP's code


class FrameSelector(nn.Module):
    """Scores frames from one vector per frame and question; as in ATP's encoder, without positions of frames.

    A LayerNorm normalises the inputs; ATP's inputs are CLIP vectors of length 1.
    """

    def __init__(self, language_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(language_width)
        self.embedding = nn.Linear(language_width, WIDTH)
        self.modality = nn.Parameter(torch.empty(2, WIDTH).normal_(std=0.02))  # of the question, of a frame
        self.dropout = nn.Dropout(DROPOUT)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, WIDTH, DROPOUT, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.score = nn.Linear(WIDTH, 1)

    def forward(self, frames: Tensor, question: Tensor) -> Tensor:
        """Return scores [R, T] float32 of frames [R, T, L] and questions [R, L]."""
        inputs = torch.cat([question.unsqueeze(1), frames], dim=1).float()
        # Not indexed by [0, 1, 1, ...], as that gradient is summed in an undefined order.
        modality = torch.cat([self.modality[:1], self.modality[1:].expand(frames.shape[1], -1)])
        encoded = self.encoder(self.dropout(self.embedding(self.norm(inputs)) + modality))
        scores: Tensor = self.score(encoded[:, 1:]).squeeze(2).float()
        return scores

    @torch.no_grad()
    def scores(self, vectors: Tensor, rows: np.ndarray, question: Tensor) -> np.ndarray:
        """Return the scores [T] float32 of rows of a video's vectors [F, L] for one question [L]."""
        frames = vectors.index_select(0, to_device(np.array(rows), str(vectors.device)))
        return np.asarray(self(frames[None], question[None])[0].cpu().numpy())


def one_frame(scores: Tensor) -> Tensor:
    """Return one frame per row, sampled by score, as one-hot vectors [R, 1, T] with the softmax's gradient (ATP)."""
    return functional.gumbel_softmax(scores, hard=True).unsqueeze(1)


def top_k_frames(scores: Tensor, k: int, n_draws: int, deviation: float) -> Tensor:
    """Return the perturbed top k, [R, k, T], of scores scaled to [0, 1] in each row, as in Cordonnier et al."""
    low, high = scores.aminmax(dim=1, keepdim=True)
    scaled = (scores - low) / (high - low + 1e-5)
    return perturbed_top_k(scaled, k, torch.randn(n_draws, *scores.shape, device=scores.device), deviation)


@torch.no_grad()
def text_vectors(language: Language, token_ids: Sequence[Sequence[int]]) -> Tensor:
    """Return a vector of each text, [R, L] float32: the mean of the language model's hidden states, without frames."""
    inputs = language.text_only(token_ids)
    mask = inputs.mask.unsqueeze(2).float()
    return (language.states(inputs).float() * mask).sum(dim=1) / mask.sum(dim=1)


def load_frame_selector(path: Path, device: str) -> FrameSelector:
    """Return the selector in a file, in evaluation mode.

    Raises:
        CheckpointError: missing, unexpected or misshapen tensors.
    """
    readers = open_checkpoint(path)
    width = readers["norm.weight"]().shape[0] if "norm.weight" in readers else 1
    with torch.device("meta"):
        module = FrameSelector(width)
    fill(module, path, "selector", OWN, torch.float32, device)
    return module.eval()
