"""The frozen ViT: frames in, features before any LayerNorm out.

Shapes: B frames, H image height = width, P patches + 1 class token, D vision width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Blip2VisionConfig, Blip2VisionModel


class VisionEncoder(nn.Module):
    """EVA ViT-g of BLIP-2 (39 blocks, D = 1408, P = 257 at 224 pixels) without a final norm.

    The official model has no norm of its own after the last block; Localizer and Answerer each bring a trainable one
    (`VisualPrompt.layer_norm`), so that one set of cached features serves both.
    """

    def __init__(self, config: Blip2VisionConfig) -> None:
        super().__init__()
        model = Blip2VisionModel(config)
        self.embeddings = model.embeddings
        self.image_size = config.image_size
        self.encoder = model.encoder  # `model.post_layernorm` is left behind: it belongs to one VisualPrompt

    def forward(self, pixels: Tensor) -> Tensor:
        """Return features [B, P, D] in the encoder's dtype of normalised `pixels` [B, 3, H, H] (any float dtype)."""
        # transformers would cut the position embeddings short for smaller frames, without a word.
        assert pixels[0].shape == (3, self.image_size, self.image_size), (pixels.shape, self.image_size)
        return self.encoder(inputs_embeds=self.embeddings(pixels)).last_hidden_state

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, in which the encoder computes."""
        return self.embeddings.patch_embedding.weight.dtype
