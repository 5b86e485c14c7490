"""A complete BLIP-2, with Flan-T5 or a decoder-only language model, for the tests, which download nothing.

About 100,000 random parameters in the real classes and the real directory layout; only the sizes and the values are artificial.
Its scores and answers are meaningless but differ between frames and between questions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import Blip2Config, Blip2ForConditionalGeneration
from transformers.utils import logging

from pipeline.datasets.question import NEXT_EVENT_QUESTION
from pipeline.models import prompts

_SPACE = "▁"
_WIDTH = 32
MOST_TOKENS = 512  # that the decoder-only ones read


def write_tiny_blip2(
    folder: Path, seed: int, image_size: int = 28, words: Iterable[str] = (), language: str = "t5"
) -> None:
    """Write `config.json`, `model.safetensors` and `tokenizer.json` to `folder`, which is created if missing.

    Equal arguments give equal bytes with the same versions of torch and transformers.

    Args:
        image_size: height and width of frames in pixels, a multiple of 14.
        words: words that get one token each, as those of the prompts do; all others are spelled letter by letter.
        language: kind of language model: t5, opt, llama or mistral.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if language == "t5":
        n_tokens = write_tokenizer(folder / "tokenizer.json", words)
    else:
        n_tokens = _write(_decoders_tokenizer(language, words), folder / "tokenizer.json")
    model = Blip2ForConditionalGeneration(_config(image_size, _text_config(language, n_tokens)))
    text = model.language_model
    if language == "t5":  # transformers ties it to the embeddings; Flan-T5 does not
        text.lm_head.weight = nn.Parameter(torch.empty_like(text.shared.weight))
    _randomise(model, seed)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    if bars:
        logging.enable_progress_bar()


def _config(image_size: int, text: dict[str, Any]) -> Blip2Config:
    vision = {
        "hidden_size": _WIDTH,
        "intermediate_size": 2 * _WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": image_size,
        "patch_size": 14,
    }
    qformer = {
        "hidden_size": _WIDTH,
        "intermediate_size": 2 * _WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "encoder_hidden_size": _WIDTH,
    }
    return Blip2Config(vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=4)


def _text_config(language: str, n_tokens: int) -> dict[str, Any]:
    n_embeddings = n_tokens + 8  # as with the real ones, the model has a few embeddings more than there are tokens
    if language != "t5":
        decoder: dict[str, Any] = {
            "hidden_size": _WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": n_embeddings,
        }
        widths: dict[str, dict[str, Any]] = {
            "opt": {"ffn_dim": 2 * _WIDTH, "word_embed_proj_dim": _WIDTH},
            "llama": {"intermediate_size": 48},
            "mistral": {"intermediate_size": 48, "num_key_value_heads": 2, "sliding_window": None},
        }
        return {"model_type": language, **decoder, **widths[language], "max_position_embeddings": MOST_TOKENS}
    return {
        "model_type": "t5",
        "d_model": _WIDTH,
        "d_kv": 8,
        "num_heads": 4,
        "d_ff": 2 * _WIDTH,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "vocab_size": n_embeddings,
        "feed_forward_proj": "gated-gelu",
        "decoder_start_token_id": 0,
        "tie_word_embeddings": False,
    }


@torch.no_grad()
def _randomise(model: nn.Module, seed: int) -> None:
    """Draw every parameter again: transformers leaves query tokens at zero and the ViT's weights at 1e-10."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        parameter.copy_(initial_value(name, torch.randn(parameter.shape, generator=generator)))


def initial_value(name: str, noise: torch.Tensor) -> torch.Tensor:
    """Return a random value for the parameter of this name: normal `noise`, scaled so that what passes through keeps its size."""
    if noise.dim() == 1:  # norms near one, biases near zero: but not at it, so that a mixed-up key shows
        return 0.02 * noise + (1.0 if name.endswith("weight") else 0.0)
    if name.endswith(("query_tokens", "shared.weight", "relative_attention_bias.weight")):
        return noise
    if noise.dim() == 3:  # class and position embeddings
        return 0.1 * noise
    return noise / noise[0].numel() ** 0.5


def write_tokenizer(path: Path, words: Iterable[str]) -> int:
    """Write a `tokenizer.json` in which the prompts' words and `words` are one token each, and return how many tokens it has."""
    return _write(_tokenizer(words), path)


def _write(tokenizer: Tokenizer, path: Path) -> int:
    tokenizer.save(str(path))
    return int(tokenizer.get_vocab_size())


def _whole_words(words: Iterable[str]) -> list[str]:
    texts = [
        prompts.single_frame_prefixes()[0],
        NEXT_EVENT_QUESTION,
        prompts.NEXT_EVENT_INSTRUCTION,
        prompts.ANSWER_INSTRUCTION,
        *prompts.LOCALIZE_INSTRUCTIONS.values(),
        *prompts.LOCALIZE_TARGETS,
        *ascii_uppercase,
        "Question Options Option",
        *words,
    ]
    return sorted({word for text in texts for word in re.findall(r"\w+", text)})


def _decoders_tokenizer(language: str, words: Iterable[str]) -> Tokenizer:
    """Return a BPE tokenizer as OPT's, of bytes, or as LLaMA's, of characters; a word with a space before it is one token."""
    is_opt = language == "opt"
    space = "\u0120" if is_opt else _SPACE
    special = ["<s>", "<pad>", "</s>", "<unk>"] if is_opt else ["<unk>", "<s>", "</s>"]
    characters = sorted(pre_tokenizers.ByteLevel.alphabet()) if is_opt else [_SPACE, *map(chr, range(33, 127))]
    merges: dict[tuple[str, str], None] = {}
    for word in [*_whole_words(words), "Answer"]:
        for end in range(len(word)):
            merges[space + word[:end], word[end]] = None
    vocabulary = [*special, *characters, *("".join(pair) for pair in merges)]
    numbers = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(numbers, list(merges), unk_token="<unk>"))
    if is_opt:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
        tokenizer.decoder = decoders.Metaspace(replacement=_SPACE)
    begin = "</s>" if is_opt else "<s>"
    ending = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, numbers[begin])])
    tokenizer.post_processor = ending
    return tokenizer


def _tokenizer(words: Iterable[str]) -> Tokenizer:
    """Return a Unigram tokenizer as T5's: "▁" marks the beginning of a word, texts end in `</s>`."""
    whole = [_SPACE + word for word in _whole_words(words)]
    characters = [_SPACE, *(chr(code) for code in range(33, 127))]
    # Whole words are likelier than their letters, whatever the number of letters.
    vocabulary = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>")]
    vocabulary += [(token, -5.0) for token in whole] + [(character, -10.0) for character in characters]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer
