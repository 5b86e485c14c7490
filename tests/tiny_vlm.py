"""Tiny image-text-to-text models of random weights, in folders as the hub has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
SPECIAL += ["<|image_pad|>", "<|video_pad|>", "<image>", "<video>", "<img>", "</img>", "<IMG_CONTEXT>"]
OF_INTERNVL = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
SIDE = 28
CHAT = """{% for m in messages %}<|im_start|>{{ m['role'] }}
{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def _tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes, in which some letters after a space are tokens of their own, as Qwen's are."""
    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    words = [(chr(0x120), letter) for letter in "ABCDEFGH"]
    vocabulary |= {"".join(word): len(vocabulary) + number for number, word in enumerate(words)}
    bare = Tokenizer(models.BPE(vocabulary, words))
    bare.pre_tokenizer, bare.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bare, eos_token=SPECIAL[2], pad_token=SPECIAL[0], extra_special_tokens=OF_INTERNVL
    )
    fast.add_tokens(SPECIAL, special_tokens=True)
    return fast


def _text(words: PreTrainedTokenizerFast) -> dict[str, Any]:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"vocab_size": len(words), "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return sizes | ids | {"num_key_value_heads": 2}


def _write(
    model: Any, pixels: Any, words: PreTrainedTokenizerFast, folder: Path, image: str, **of_processor: Any
) -> None:
    """Write a model's folder. Processors with a video processor need torchvision."""
    for part in (model, pixels, words):
        part.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(CHAT.replace("IMAGE", image))
    (folder / "processor_config.json").write_text(json.dumps(of_processor))


def write_qwen2_vl(folder: Path) -> None:
    words = _tokenizer()
    of = dict(zip(SPECIAL, words.convert_tokens_to_ids(SPECIAL), strict=True))
    config = Qwen2VLConfig(
        text_config=_text(words) | {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}},
        vision_config={"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 32, "mlp_ratio": 1},
        image_token_id=of["<|image_pad|>"],
        video_token_id=of["<|video_pad|>"],
        vision_start_token_id=of["<|vision_start|>"],
        vision_end_token_id=of["<|vision_end|>"],
    )
    pixels = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=112 * 112)
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    _write(Qwen2VLForConditionalGeneration(config), pixels, words, folder, image, processor_class="Qwen2VLProcessor")


def write_llava_onevision(folder: Path) -> None:
    words = _tokenizer()
    vision = {"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    config = LlavaOnevisionConfig(
        text_config=_text(words) | {"model_type": "qwen2"},
        vision_config=vision | {"num_attention_heads": 2, "image_size": SIDE, "patch_size": 14},
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[SIDE, SIDE], [SIDE, 2 * SIDE]],
    )
    size = {"height": SIDE, "width": SIDE}
    pixels = LlavaOnevisionImageProcessorPil(size=size, image_grid_pinpoints=config.image_grid_pinpoints)
    _write(
        *(LlavaOnevisionForConditionalGeneration(config), pixels, words, folder, "<image>"),
        processor_class="LlavaOnevisionProcessor",
        num_image_tokens=4,
        vision_feature_select_strategy="full",
    )


def write_internvl(folder: Path) -> None:
    words = _tokenizer()
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = InternVLConfig(
        text_config=_text(words) | {"model_type": "qwen2"},
        vision_config=vision | {"image_size": [SIDE, SIDE], "patch_size": [14, 14]},
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=1,
    )
    pixels = GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, max_patches=2)
    model = InternVLForConditionalGeneration(config)
    _write(model, pixels, words, folder, "<IMG_CONTEXT>\n", processor_class="InternVLProcessor", image_seq_length=1)


def write_llava(folder: Path) -> None:
    """Write a model without a video processor: AutoProcessor reads it without torchvision."""
    words = _tokenizer()
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        text_config=_text(words) | {"model_type": "qwen2"},
        vision_config=vision | {"model_type": "clip_vision_model", "image_size": SIDE, "patch_size": 14},
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    pixels = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    of_pictures = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    model = LlavaForConditionalGeneration(config)
    _write(model, pixels, words, folder, "<image>\n", processor_class="LlavaProcessor", **of_pictures)


TINY: dict[str, Callable[[Path], None]] = {
    "qwen2_vl": write_qwen2_vl,
    "llava_onevision": write_llava_onevision,
    "internvl": write_internvl,
    "llava": write_llava,
}


def write_tiny_vlm(folder: Path, kind: str = "qwen2_vl", seed: int = 0) -> Path:
    """Write a tiny model of random weights, another for each seed, and return its folder."""
    torch.manual_seed(seed)
    TINY[kind](folder)
    return folder
