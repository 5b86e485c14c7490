"""The frozen ViT: frames in, features before any LayerNorm out.

Shapes: B frames, H image height = width, P patches + 1 class token, D vision width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Blip2VisionConfig, Blip2VisionModel

from pipeline.video.frames import PIXEL_MEAN, PIXEL_STD


def pixels(frames: Tensor) -> Tensor:
    """Return what the ViT reads of uint8 RGB frames [B, H, W, 3]: float32 [B, 3, H, W], normalised by CLIP's mean and std.

    On the frames' own device, in the order of operations of the official loader: dividing by a tensor is exact everywhere, by
    a number only on a CPU.
    """
    assert frames.dtype == torch.uint8 and frames.ndim == 4 and frames.shape[3] == 3, (frames.dtype, frames.shape)
    mean, std = (torch.from_numpy(values)[:, None, None].to(frames.device) for values in (PIXEL_MEAN, PIXEL_STD))
    scaled = frames.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return scaled.div_(torch.full_like(mean, 255)).sub_(mean).div_(std)


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
