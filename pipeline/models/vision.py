"""The frozen ViT, from frames to features before any LayerNorm.

Shapes: B frames, H image height = width, P patches + 1 class token, D vision width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Blip2VisionConfig, Blip2VisionModel

from pipeline.models.transfer import to_device

# CLIP's normalisation, with which BLIP-2's ViT-g was trained; RGB order.
PIXEL_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
PIXEL_STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)


def pixels(frames: Tensor) -> Tensor:
    """Return uint8 RGB frames [B, H, W, 3] as the ViT's input: float32 [B, 3, H, W], normalised by CLIP's mean and std.

    Computed on the frames' device in the official loader's order of operations. Division by a tensor is exact on every device,
    by a number on a CPU only.
    """
    assert frames.dtype == torch.uint8 and frames.ndim == 4 and frames.shape[3] == 3, (frames.dtype, frames.shape)
    mean, std = (to_device(values, str(frames.device))[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    scaled = frames.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return scaled.div_(torch.full_like(mean, 255)).sub_(mean).div_(std)


class VisionEncoder(nn.Module):
    """EVA ViT-g of BLIP-2 (39 blocks, D = 1408, P = 257 at 224 pixels) without a final norm.

    The official model has no norm after the last block; Localizer and Answerer each have a trainable one
    (`VisualPrompt.layer_norm`), so that both use the same cached features.
    """

    def __init__(self, config: Blip2VisionConfig) -> None:
        super().__init__()
        model = Blip2VisionModel(config)
        self.embeddings = model.embeddings
        self.image_size = config.image_size
        self.encoder = model.encoder  # without `model.post_layernorm`, which belongs to a VisualPrompt

    def forward(self, pixels: Tensor) -> Tensor:
        """Return features [B, P, D] in the encoder's dtype for normalised `pixels` [B, 3, H, H] (any float dtype)."""
        # transformers silently truncates the position embeddings for smaller frames.
        assert pixels[0].shape == (3, self.image_size, self.image_size), (pixels.shape, self.image_size)
        return self.encoder(inputs_embeds=self.embeddings(pixels)).last_hidden_state

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, in which the encoder computes."""
        return self.embeddings.patch_embedding.weight.dtype
