"""CLIP and SigLIP: embeddings of frames and texts in a common space, compared by cosine similarity.

Shapes: B frames, H their height = width, R texts, D width of the space.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from string import punctuation
from typing import Annotated, Any, Literal

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from pydantic import Field, ValidationError
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import interpolate, normalize
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from cache.errors import CheckpointError
from pipeline.checkpoint_files import read_model_json
from pipeline.models.checkpoint import fill, tensor_sources
from pipeline.models.config_parts import (
    ATTENTION,
    Activation,
    ConfigPart,
    Epsilon,
    Layers,
    LayerSize,
    Pixels,
    TokenId,
    in_words,
)
from pipeline.models.keys import KeyTable
from pipeline.models.tensors import open_checkpoint
from pipeline.models.tokenizer_file import read_tokenizer_of_other_model
from pipeline.models.transfer import to_device
from pipeline.models.vision import pixels

CLASSES = {"clip": (CLIPConfig, CLIPModel), "siglip": (SiglipConfig, SiglipModel)}
KEYS = KeyTable(
    belongs="",
    renames=((r"(.+)", r"\1"),),
    ignored={r"(text|vision)_model\.embeddings\.position_ids": "0, 1, ..., not learned"},
)
SIGLIP_2_TOKENS = 200_000  # a vocabulary of this size or larger is SigLIP 2's, which keeps punctuation


class _Tower(ConfigPart):
    hidden_size: LayerSize | None = None
    intermediate_size: LayerSize | None = None
    num_hidden_layers: Layers | None = None
    num_attention_heads: Layers | None = None
    hidden_act: Activation | None = None
    layer_norm_eps: Epsilon | None = None


class _ImageTower(_Tower):
    image_size: Pixels | None = None
    patch_size: Pixels | None = None


class _TextTower(_Tower):
    vocab_size: Annotated[int, Field(ge=1, le=1 << 24)] | None = None
    max_position_embeddings: Annotated[int, Field(ge=4, le=1 << 14)] | None = None
    projection_size: LayerSize | None = None  # of SigLIP
    eos_token_id: TokenId | None = None


class _Embedders(ConfigPart):
    model_type: Literal["clip", "siglip"]
    vision_config: _ImageTower = _ImageTower()
    text_config: _TextTower = _TextTower()
    projection_dim: LayerSize | None = None  # of CLIP


class Embedder:
    """A frozen CLIP or SigLIP on one device."""

    def __init__(self, model: CLIPModel | SiglipModel, tokenizer: Tokenizer) -> None:
        """Args: `model` of transformers."""
        self._model: Any = model
        self._tokenizer = tokenizer
        self._is_siglip = isinstance(model, SiglipModel)
        config: Any = model.config
        self._image_size = config.vision_config.image_size
        self._max_tokens = config.text_config.max_position_embeddings
        self._is_siglip_2 = self._is_siglip and tokenizer.get_vocab_size() >= SIGLIP_2_TOKENS
        # SigLIP pads with its end token, although its vocabulary has <pad>; SigLIP 2 with <pad>.
        pad = "<pad>" if self._is_siglip_2 else "</s>" if self._is_siglip else "<|endoftext|>"
        self._pad_id = tokenizer.token_to_id(pad) or 0

    @torch.no_grad()
    def of_frames(self, frames: Tensor) -> Tensor:
        """Return the vectors of uint8 RGB frames [B, H, H, 3] on the model's device: [B, D] float32, of length 1."""
        images = _siglip_pixels(frames) if self._is_siglip else pixels(frames)
        if images.shape[-1] != self._image_size:
            size = (self._image_size, self._image_size)
            images = interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)
        images = images.to(self._model.logit_scale.dtype)
        return normalize(self._model.get_image_features(pixel_values=images).pooler_output.float(), dim=-1)

    @torch.no_grad()
    def of_texts(self, texts: Sequence[str]) -> tuple[Tensor, list[bool]]:
        """Return the vectors of R texts, [R, D] float32 of length 1, and which of them were truncated."""
        ids, truncated = zip(*map(self.token_ids, texts), strict=True)
        # SigLIP pools its last position, also if it is padding; CLIP pools its end token and is causal.
        length = self._max_tokens if self._is_siglip else max(map(len, ids))
        rows = [[*text_ids, *[self._pad_id] * (length - len(text_ids))] for text_ids in ids]
        inputs = {"input_ids": to_device(np.array(rows), str(self._model.device))}
        if not self._is_siglip:
            mask = [[1] * len(text_ids) + [0] * (length - len(text_ids)) for text_ids in ids]
            inputs["attention_mask"] = to_device(np.array(mask), str(self._model.device))
        return normalize(self._model.get_text_features(**inputs).pooler_output.float(), dim=-1), list(truncated)

    def token_ids(self, text: str) -> tuple[list[int], bool]:
        """Return the ids of a text, and whether it was truncated to the model's length; the end token stays."""
        ids = self._tokenizer.encode(self._prepared(text)).ids
        if len(ids) <= self._max_tokens:
            return ids, False
        return [*ids[: self._max_tokens - 1], ids[-1]], True

    def _prepared(self, text: str) -> str:
        """Return a text with SigLIP's preprocessing, which not every `tokenizer.json` includes."""
        if not self._is_siglip:
            return text
        text = text.lower()
        if not self._is_siglip_2:
            text = text.translate(str.maketrans("", "", punctuation))
        return re.sub(r"\s+", " ", text).strip()


def _siglip_pixels(frames: Tensor) -> Tensor:
    """Return uint8 frames [B, H, H, 3] as SigLIP's input: float32 [B, 3, H, H] from -1 to 1."""
    scaled = frames.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return scaled.div_(torch.full_like(scaled[:1, :, :1, :1], 127.5)).sub_(1)


def describe_embedder(folder: Path) -> dict[str, Any]:
    """Return the kind of the CLIP or SigLIP in a folder, its tokens per image and width of the space; read tensors' names only.

    Raises:
        CheckpointError: the folder has no such model, other tensors than config.json describes, or no tokenizer.json.
    """
    model: Any = _empty(folder)
    tensor_sources(folder, "CLIP or SigLIP", KEYS, open_checkpoint(folder), list(model.state_dict()), {})
    read_tokenizer_of_other_model(folder / "tokenizer.json")
    config = model.config
    vision = config.vision_config
    width = config.projection_dim if config.model_type == "clip" else vision.hidden_size
    n_tokens = (vision.image_size // vision.patch_size) ** 2 + 1
    return {"model": config.model_type, "image_size": vision.image_size, "n_tokens": n_tokens, "width": width}


def load_embedder(folder: Path, dtype: torch.dtype, device: str) -> Embedder:
    """Return the CLIP or SigLIP of a Hugging Face folder, frozen, on the device; raise `CheckpointError` if it is invalid."""
    model: Any = _empty(folder)
    fill(model, folder, "CLIP or SigLIP", KEYS, dtype, device)
    return Embedder(model.eval().requires_grad_(False), read_tokenizer_of_other_model(folder / "tokenizer.json"))


def _empty(folder: Path) -> CLIPModel | SiglipModel:
    """Return the model on the meta device."""
    path = folder / "config.json"
    raw = read_model_json(path) if path.exists() else {}
    if raw.get("model_type") not in CLASSES:
        raise CheckpointError(
            f"{path}: model_type is {raw.get('model_type')!r}; expected a CLIP or SigLIP in the Hugging Face layout, for "
            "example openai/clip-vit-large-patch14 or google/siglip-so400m-patch14-384"
        )
    try:
        values = _Embedders.model_validate(raw).model_dump(exclude_none=True)
        config_class, model_class = CLASSES[values.pop("model_type")]
        config: Any = config_class(**values)
        for part in (config, config.vision_config, config.text_config):
            part._attn_implementation = ATTENTION
        with torch.device("meta"):
            model: CLIPModel | SiglipModel = model_class(config)
    except (StrictDataclassError, ValidationError, ValueError) as error:
        problem = in_words(error) if isinstance(error, ValidationError) else " ".join(str(error).split())
        raise CheckpointError(f"{path}: not a valid configuration: {problem}") from error
    return model
