"""CLIP, SigLIP and a BLIP-2 for image-text matching, tiny and of random weights, in the layout of the hub."""

from __future__ import annotations

from pathlib import Path
from string import ascii_lowercase, digits
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import (
    Blip2Config,
    Blip2ForImageTextRetrieval,
    CLIPConfig,
    CLIPModel,
    PreTrainedModel,
    SiglipConfig,
    SiglipModel,
)
from transformers.utils import logging

from tests.tiny_blip2 import initial_value

WIDTH, IMAGE_SIZE, MAX_TOKENS = 32, 28, 16
_TOWER = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_CHARACTERS = [*ascii_lowercase, *digits, "?", "."]


def write_tiny_embedder(folder: Path, kind: str, seed: int = 0) -> PreTrainedModel:
    """Write a CLIP or SigLIP and return transformers' own model of it."""
    ends = ["<|startoftext|>", "<|endoftext|>"] if kind == "clip" else ["<pad>", "</s>"]
    n_tokens = _write_tokenizer(folder, ends, ends if kind == "clip" else [None, "</s>"])
    vision = {**_TOWER, "image_size": IMAGE_SIZE, "patch_size": 14}
    text: dict[str, Any] = {**_TOWER, "vocab_size": n_tokens, "max_position_embeddings": MAX_TOKENS}
    model: PreTrainedModel
    if kind == "clip":
        text |= {"eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 1}
        model = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=24))
    else:
        model = SiglipModel(SiglipConfig(vision_config=vision, text_config=text | {"projection_size": WIDTH}))
    return _written(model, folder, seed)


def write_tiny_matcher(folder: Path, seed: int = 0) -> PreTrainedModel:
    """Write a BLIP-2 for image-text matching and return transformers' own model of it."""
    n_tokens = _write_tokenizer(folder, ["[PAD]", "[CLS]", "[SEP]"], ["[CLS]", "[SEP]"])
    qformer = {**_TOWER, "encoder_hidden_size": WIDTH, "use_qformer_text_input": True, "vocab_size": n_tokens}
    config = Blip2Config(
        vision_config={**_TOWER, "image_size": IMAGE_SIZE, "patch_size": 14},
        qformer_config=qformer | {"max_position_embeddings": MAX_TOKENS},
        num_query_tokens=4,
        image_text_hidden_size=24,
    )
    return _written(Blip2ForImageTextRetrieval(config), folder, seed)


@torch.no_grad()
def _written(model: PreTrainedModel, folder: Path, seed: int) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(seed)
    parameters: list[tuple[str, nn.Parameter]] = sorted(model.named_parameters())
    for name, parameter in parameters:
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(noise if parameter.dim() == 0 or "embedding" in name else initial_value(name, noise))
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    if bars:
        logging.enable_progress_bar()
    return model.eval()


def _write_tokenizer(folder: Path, special: list[str], around: list[str | None]) -> int:
    """Write a tokenizer of lower-case characters that adds special tokens around a text; return its number of tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: id for id, token in enumerate([*special, "<unk>", *_CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    ends = [(token, vocabulary[token]) for token in around if token]
    single = " ".join(filter(None, [around[0], "$A", around[1]]))
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ends)
    tokenizer.save(str(folder / "tokenizer.json"))
    return len(vocabulary)
