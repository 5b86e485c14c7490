"""Sizes of a BLIP-2 Flan-T5, read from the `config.json` of a Hugging Face directory.

Only what is declared here is taken from a foreign file, each value within bounds: transformers acts on keys that no one expects
in one, `attn_implementation` for instance, which may name code to fetch and run.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from transformers import Blip2QFormerConfig, Blip2VisionConfig, PretrainedConfig, T5Config

from cache.errors import CheckpointError
from cache.printable import shortened
from pipeline.checkpoint_files import read_model_json

log = logging.getLogger("sevila")

OFFICIAL_VISION_EPSILON = 1e-6  # of the ViT's blocks in the official code, with which released weights were trained
ATTENTION = "sdpa"  # for all modules, whatever a file or a library's next release would choose

LayerSize = Annotated[int, Field(ge=1, le=1 << 16)]  # widths of layers; BLIP-2 xxl has up to 10,240
Layers = Annotated[int, Field(ge=1, le=256)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Epsilon = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Spread = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 24)]
Activation = Literal["gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "swish"]


def _side(size: Any) -> Any:
    """Return the one side of a square that transformers lets one write as a number or as a pair."""
    if isinstance(size, list | tuple) and size:
        if any(side != size[0] for side in size):
            raise ValueError("image and patch sizes must be squares")
        return size[0]
    return size


Pixels = Annotated[int, Field(ge=1, le=4096), BeforeValidator(_side)]


class ConfigPart(BaseModel):
    """Keys of one part, all optional; null is as good as absent."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, raw: Any) -> Any:
        return {key: value for key, value in raw.items() if value is not None} if isinstance(raw, dict) else raw


class _Attending(ConfigPart):
    hidden_size: LayerSize
    num_attention_heads: LayerSize
    num_hidden_layers: Layers
    intermediate_size: LayerSize
    hidden_act: Activation
    layer_norm_eps: Epsilon
    initializer_range: Spread

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        return self


# Files on the hub leave out what equals the default of the day: BLIP-2's own sizes, which are still the defaults.
class VisionSizes(_Attending):
    """Sizes of the ViT."""

    hidden_size: LayerSize = 1408
    num_attention_heads: LayerSize = 16
    num_hidden_layers: Layers = 39
    intermediate_size: LayerSize = 6144
    hidden_act: Activation = "gelu"
    layer_norm_eps: Epsilon = 1e-6
    initializer_range: Spread = 1e-10
    image_size: Pixels = 224
    patch_size: Pixels = 14
    attention_dropout: Fraction = 0.0
    qkv_bias: bool = True

    @model_validator(mode="after")
    def _an_image_holds_a_patch(self) -> Self:
        if self.image_size < self.patch_size:
            raise ValueError(f"image_size {self.image_size} is smaller than patch_size {self.patch_size}")
        return self


class QFormerSizes(_Attending):
    """Sizes of the Q-Former."""

    hidden_size: LayerSize = 768
    num_attention_heads: LayerSize = 12
    num_hidden_layers: Layers = 12
    intermediate_size: LayerSize = 3072
    hidden_act: Activation = "gelu"
    layer_norm_eps: Epsilon = 1e-12
    initializer_range: Spread = 0.02
    hidden_dropout_prob: Fraction = 0.1
    attention_probs_dropout_prob: Fraction = 0.1
    cross_attention_frequency: Layers = 2


class _Text(ConfigPart):
    vocab_size: Annotated[int, Field(ge=1, le=1 << 24)] = 32128
    d_model: LayerSize = 512
    d_kv: LayerSize = 64
    d_ff: LayerSize = 2048
    num_layers: Layers = 6
    num_decoder_layers: Layers = 6
    num_heads: LayerSize = 8
    relative_attention_num_buckets: Annotated[int, Field(ge=4, le=1 << 16)] = 32
    relative_attention_max_distance: Annotated[int, Field(ge=4, le=1 << 24)] = 128
    dropout_rate: Fraction = 0.1
    layer_norm_epsilon: Epsilon = 1e-6
    feed_forward_proj: Literal["gated-gelu"] = "gated-gelu"
    pad_token_id: TokenId = 0
    eos_token_id: TokenId = 1
    decoder_start_token_id: TokenId | None = None  # the padding token


class _Model(ConfigPart):
    vision_config: VisionSizes = VisionSizes()
    qformer_config: QFormerSizes = QFormerSizes()
    text_config: _Text = _Text()
    num_query_tokens: Annotated[int, Field(ge=1, le=4096)] = 32


@dataclass(frozen=True)
class ModelConfig:
    """The three modules' sizes; build one with `model_config` or `read_blip2_config`."""

    vision: Blip2VisionConfig
    qformer: Blip2QFormerConfig
    text: T5Config
    num_query_tokens: int

    @property
    def image_size(self) -> int:
        """Height and width in pixels of the frames the ViT reads."""
        size: Any = self.vision.image_size
        return int(size)

    @property
    def feature_shape(self) -> tuple[int, int]:
        """Shape (P, D) of one frame's features: patches + 1 class token, vision width."""
        patch: Any = self.vision.patch_size
        return (self.image_size // int(patch)) ** 2 + 1, self.vision.hidden_size


def model_config(
    vision: dict[str, Any], qformer: dict[str, Any], text: dict[str, Any], num_query_tokens: int
) -> ModelConfig:
    """Return the configuration with what every SeViLA model has in common put right.

    The activation is the exact gelu: the official code overrides Flan-T5's own `gelu_new` with it, and transformers
    sets `gelu_new` for every `gated-gelu` configuration, whatever `dense_act_fn` says.

    Raises:
        ValueError: a value of a wrong type or out of bounds.
    """
    raw = {"vision_config": vision, "qformer_config": qformer, "text_config": text}
    read = _Model.model_validate(raw | {"num_query_tokens": num_query_tokens})
    text_config = built(T5Config, read.text_config)
    text_config.dense_act_fn = "gelu"
    text_config.scale_decoder_outputs = False  # Flan-T5's own; nothing of ours asks
    qformer_config = built(Blip2QFormerConfig, read.qformer_config)
    qformer_config.encoder_hidden_size = read.vision_config.hidden_size
    return ModelConfig(built(Blip2VisionConfig, read.vision_config), qformer_config, text_config, read.num_query_tokens)


Built = TypeVar("Built", bound=PretrainedConfig)


def built(kind: type[Built], part: ConfigPart) -> Built:
    """Return transformers' own configuration of these sizes."""
    config = kind(**part.model_dump())
    config._attn_implementation = ATTENTION
    return config


def read_blip2_config(folder: Path) -> ModelConfig:
    """Return the sizes of the BLIP-2 Flan-T5 in `folder`.

    Raises:
        CheckpointError: there is no readable `config.json`, or it describes another model (InstructBLIP, BLIP-2 OPT).
    """
    path = folder / "config.json"
    if not path.exists():
        what = f"{folder}: is a file" if folder.is_file() else f"{path}: not found"
        raise CheckpointError(
            f"{what}; wanted the directory of a BLIP-2 Flan-T5 as Hugging Face lays it out, for example a "
            "download of Salesforce/blip2-flan-t5-xl"
        )
    raw = read_model_json(path)
    parts: dict[str, Any] = {name: raw.get(name) or {} for name in ("vision_config", "qformer_config", "text_config")}
    wrong = [name for name, part in parts.items() if not isinstance(part, dict)]
    if wrong:
        raise CheckpointError(f"{path}: {wrong[0]} is a {type(parts[wrong[0]]).__name__}, wanted an object")
    _check_architecture(path, raw.get("model_type"), parts["text_config"], parts["qformer_config"])
    n_tokens = raw.get("num_query_tokens")
    try:
        vision, qformer, text = parts["vision_config"], parts["qformer_config"], parts["text_config"]
        config = model_config(vision, qformer, text, 32 if n_tokens is None else n_tokens)
    except ValidationError as error:
        raise CheckpointError(f"{path}: not a configuration that can be built: {in_words(error)}") from error
    _warn_of_epsilon(path, config.vision.layer_norm_eps)
    return config


@cache  # a run reads the file for every model that it loads
def _warn_of_epsilon(path: Path, epsilon: float) -> None:
    """Warn of LayerNorms that differ from the official code's, as in configurations on the hub written by older releases."""
    if epsilon != OFFICIAL_VISION_EPSILON:
        log.warning(
            "%s: vision_config.layer_norm_eps is %g; the official code has %g, with which released SeViLA weights were trained. "
            "Set it in the file for numbers like the paper's: the features are extracted anew then",
            *(path, epsilon, OFFICIAL_VISION_EPSILON),
        )


def in_words(error: ValidationError) -> str:
    """Return what is wrong with a configuration, for people."""
    problems = error.errors(include_url=False, include_context=False)
    messages = [
        f"{'.'.join(map(str, problem['loc']))} is {shortened(repr(problem['input']), 63)}: {problem['msg']}"
        for problem in problems
    ]
    return "; ".join(messages[:3]) + (f"; and {len(messages) - 3} more" if messages[3:] else "")


def _check_architecture(path: Path, model_type: Any, text: dict[str, Any], qformer: dict[str, Any]) -> None:
    actual_and_wanted = {
        "model_type": (model_type, "blip-2"),
        "text_config.model_type": (text.get("model_type"), "t5"),
        "text_config.feed_forward_proj": (text.get("feed_forward_proj"), "gated-gelu"),
        "qformer_config.use_qformer_text_input": (qformer.get("use_qformer_text_input", False), False),
    }
    wrong = [
        f"{key} is {shortened(repr(value), 63)}, wanted {wanted!r}"
        for key, (value, wanted) in actual_and_wanted.items()
        if value != wanted
    ]
    if wrong:
        raise CheckpointError(
            f"{path}: {'; '.join(wrong)}. SeViLA needs BLIP-2 with Flan-T5 (Salesforce/blip2-flan-t5-xl or -xxl), not "
            "InstructBLIP, BLIP-2 OPT or an image-text retrieval model"
        )
