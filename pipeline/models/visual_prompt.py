"""The trainable part of Localizer and Answerer: features of a frame -> visual tokens for the language model.

Shapes: B frames, P patches + 1 class token, D vision width, Q query tokens, E Q-Former width, L language width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

# Official `ln_vision`: torch's default, not the 1e-6 of the ViT's blocks and of `post_layernorm`.
FEATURE_NORM_EPS = 1e-5


class VisualPrompt(nn.Module):
    """LayerNorm on ViT features, query tokens, Q-Former and projection: ~106 M parameters at the paper's size.

    The Q-Former sees no text (BLIP-2 stage 2), so a frame's visual tokens serve every question about it.

    Parameters stay float32. `compute_dtype` is the precision of the matrix products: float32, or bfloat16/float16 under
    autocast, as the official code runs it.
    """

    def __init__(self, qformer: Blip2QFormerConfig, num_query_tokens: int, language_width: int) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(qformer.encoder_hidden_size, eps=FEATURE_NORM_EPS)
        # Normal, as in the official code: from transformers' zeros all queries would stay identical.
        self.query_tokens = nn.Parameter(
            torch.empty(1, num_query_tokens, qformer.hidden_size).normal_(std=qformer.initializer_range)
        )
        self.qformer = Blip2QFormerModel(qformer)
        self.projection = nn.Linear(qformer.hidden_size, language_width)
        self.compute_dtype = torch.float32

    def forward(self, features: Tensor) -> Tensor:
        """Return visual tokens [B, Q, L] float32 of `features` [B, P, D] (any float dtype, before any LayerNorm)."""
        return self.project(self.query(features))

    def query(self, features: Tensor) -> Tensor:
        """Return the Q-Former's output [B, Q, E] float32: 15 times smaller than the features, enough for `project`."""
        normed = self.layer_norm(features.float())
        with self._autocast(features.device):
            queries = self.query_tokens.expand(len(features), -1, -1)
            return self.qformer(query_embeds=queries, encoder_hidden_states=normed).last_hidden_state.float()

    def project(self, queried: Tensor) -> Tensor:
        """Return visual tokens [B, Q, L] float32 of Q-Former outputs [B, Q, E] (any float dtype)."""
        with self._autocast(queried.device):
            return self.projection(queried.float()).float()

    def _autocast(self, device: torch.device) -> torch.autocast:
        reduced = self.compute_dtype != torch.float32
        return torch.autocast(device.type, self.compute_dtype if reduced else None, enabled=reduced)
