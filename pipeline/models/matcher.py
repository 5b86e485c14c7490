"""BLIP-2's image-text matching: a Q-Former that reads a frame and a text together and classifies whether they match.

Shapes: F frames, R rows = (text, frame) pairs, P patches + 1 class token, D vision width, Q query tokens, E Q-Former width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, ValidationError
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel, Blip2VisionConfig, T5Config
from transformers.models.blip_2.modeling_blip_2 import Blip2TextEmbeddings

from cache.errors import CheckpointError
from pipeline.checkpoint_files import read_model_json
from pipeline.models.checkpoint import fill, tensor_sources, vision_fingerprint
from pipeline.models.config import ModelConfig, QFormerSizes, VisionSizes
from pipeline.models.config_parts import ConfigPart, in_words, to_transformers
from pipeline.models.keys import KeyTable
from pipeline.models.tensors import open_checkpoint
from pipeline.models.tokenizer_file import ids_of_texts, read_tokenizer_of_other_model
from pipeline.models.transfer import to_device

KEYS = KeyTable(
    belongs=r"vision_model\.post_layernorm\.|query_tokens$|qformer\.|embeddings\.|itm_head\.",
    renames=(
        (r"vision_model\.post_layernorm\.(weight|bias)", r"layer_norm.\1"),
        (r"(query_tokens|(?:qformer|embeddings|itm_head)\..+)", r"\1"),
    ),
    ignored={r"embeddings\.position_ids": "0, 1, ..., not learned"},
)
PART = "matching part"


class _TextQFormer(QFormerSizes):
    use_qformer_text_input: Literal[True]
    vocab_size: Annotated[int, Field(ge=1, le=1 << 24)] = 30522
    max_position_embeddings: Annotated[int, Field(ge=4, le=1 << 14)] = 512


class _Matchers(ConfigPart):
    model_type: Literal["blip-2"]
    vision_config: VisionSizes = VisionSizes()
    qformer_config: _TextQFormer
    num_query_tokens: Annotated[int, Field(ge=1, le=4096)] = 32


class _Parts(nn.Module):
    """The model without the ViT, whose features are stored before this LayerNorm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        qformer: Any = config.qformer
        self.layer_norm = nn.LayerNorm(config.vision.hidden_size, eps=config.vision.layer_norm_eps)
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, qformer.hidden_size))
        self.embeddings = Blip2TextEmbeddings(qformer)
        self.qformer = Blip2QFormerModel(qformer)
        self.itm_head = nn.Linear(qformer.hidden_size, 2)


class Matcher:
    """The frozen Q-Former and matching head of a BLIP-2 on one device."""

    def __init__(self, parts: _Parts, tokenizer: Tokenizer) -> None:
        self._parts = parts
        self._tokenizer = tokenizer
        self._max_tokens = parts.embeddings.position_embeddings.num_embeddings

    @property
    def n_query_tokens(self) -> int:
        """Q."""
        return self._parts.query_tokens.shape[1]

    def tokenize(self, texts: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        """Return the ids of texts with the end token, and which texts were truncated to the model's length."""
        whole, most = ids_of_texts(self._tokenizer, texts), self._max_tokens
        cut = [ids if len(ids) <= most else [*ids[: most - 1], ids[-1]] for ids in whole]
        return cut, [len(ids) > most for ids in whole]

    @torch.no_grad()
    def visual(self, features: Tensor) -> Tensor:
        """Return the Q-Former's input [F, P, D] float32 for `features` [F, P, D] before any LayerNorm."""
        return self._parts.layer_norm(features.float())

    @torch.no_grad()
    def score(self, visual: Tensor, token_ids: Sequence[Sequence[int]]) -> Tensor:
        """Return logits of R pairs, [R, 2] float32: no match, match.

        Args:
            visual: [R, P, D], the frame of each row.
            token_ids: R texts as ids.
        """
        parts, longest, device = self._parts, max(map(len, token_ids)), str(visual.device)
        rows = [[*ids, *[0] * (longest - len(ids))] for ids in token_ids]
        mask = [[1] * (self.n_query_tokens + len(ids)) + [0] * (longest - len(ids)) for ids in token_ids]
        queries = parts.query_tokens.expand(len(visual), -1, -1)
        embedded = parts.embeddings(input_ids=to_device(np.array(rows), device), query_embeds=queries)
        hidden = parts.qformer(
            query_embeds=embedded,
            query_length=self.n_query_tokens,
            attention_mask=to_device(np.array(mask), device),
            encoder_hidden_states=visual,
        ).last_hidden_state
        return parts.itm_head(hidden[:, : self.n_query_tokens]).mean(dim=1)


def read_matcher_config(folder: Path) -> ModelConfig:
    """Return the sizes of the matching BLIP-2 in `folder`, with a dummy language model; raise `CheckpointError` if invalid."""
    path = folder / "config.json"
    raw = read_model_json(path) if path.exists() else {}
    qformer = raw.get("qformer_config")
    if not isinstance(qformer, dict) or qformer.get("use_qformer_text_input") is not True:
        raise CheckpointError(
            f"{path}: no BLIP-2 whose Q-Former reads text; expected one for image-text matching, for example "
            "Salesforce/blip2-itm-vit-g"
        )
    try:
        sizes = _Matchers.model_validate(raw)
    except ValidationError as error:
        raise CheckpointError(f"{path}: not a valid configuration: {in_words(error)}") from error
    vision = to_transformers(Blip2VisionConfig, sizes.vision_config)
    qformer_config = to_transformers(Blip2QFormerConfig, sizes.qformer_config)
    qformer_config.encoder_hidden_size = vision.hidden_size
    return ModelConfig(vision, qformer_config, T5Config(), sizes.num_query_tokens)


def describe_matcher(folder: Path) -> dict[str, Any]:
    """Return the identity of the ViT and the sizes of its frames and features, after a check of all tensors' names.

    Raises:
        CheckpointError: the folder has no BLIP-2 for matching, other tensors than config.json describes, or no tokenizer.json.
    """
    config = read_matcher_config(folder)
    with torch.device("meta"):
        names = list(_Parts(config).state_dict())
    tensor_sources(folder, PART, KEYS, open_checkpoint(folder), names, {})
    read_tokenizer_of_other_model(folder / "tokenizer.json")
    encoder, shape = vision_fingerprint(config, folder), list(config.feature_shape)
    return {"encoder": encoder, "feature_shape": shape, "image_size": config.image_size}


def load_matcher(folder: Path, device: str) -> Matcher:
    """Return the matching part of a Hugging Face folder, frozen, float32, on the device; raise `CheckpointError` if invalid."""
    config = read_matcher_config(folder)
    with torch.device("meta"):
        parts = _Parts(config)
    fill(parts, folder, PART, KEYS, torch.float32, device)
    tokenizer = read_tokenizer_of_other_model(folder / "tokenizer.json")
    return Matcher(parts.eval().requires_grad_(False), tokenizer)
