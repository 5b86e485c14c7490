"""Types with bounds for the keys of foreign configurations.

Only declared keys are read from a foreign file, each within bounds: transformers acts on other keys too, for example
`attn_implementation`, which may name code to download and run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cache.printable import first_few, shortened

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ATTENTION = "sdpa"  # for all modules, independent of files and of transformers' default

LayerSize = Annotated[int, Field(ge=1, le=1 << 16)]  # widths of layers; BLIP-2 xxl has up to 10,240
Layers = Annotated[int, Field(ge=1, le=256)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Epsilon = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Spread = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 24)]
Activation = Literal["gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "swish"]


def _side(size: Any) -> Any:
    """Return the side of a square, which transformers accepts as a number or a pair."""
    if isinstance(size, list | tuple) and size:
        if any(side != size[0] for side in size):
            raise ValueError("image and patch sizes must be squares")
        return size[0]
    return size


Pixels = Annotated[int, Field(ge=1, le=4096), BeforeValidator(_side)]


class ConfigPart(BaseModel):
    """Keys of one part of a configuration; null counts as absent."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, raw: Any) -> Any:
        return {key: value for key, value in raw.items() if value is not None} if isinstance(raw, dict) else raw


class AttentionSizes(ConfigPart):
    """Sizes of a stack of attention layers."""

    hidden_size: LayerSize
    num_attention_heads: LayerSize
    num_hidden_layers: Layers
    intermediate_size: LayerSize
    hidden_act: Activation
    layer_norm_eps: Epsilon
    initializer_range: Spread

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        share_width(self.hidden_size, self.num_attention_heads)
        return self


def check_ids(vocab_size: int, *token_ids: int | None) -> None:
    """Raise `ValueError` if a token id is outside the vocabulary."""
    beyond = [token_id for token_id in token_ids if token_id is not None and token_id >= vocab_size]
    if beyond:
        raise ValueError(f"token {beyond[0]} is beyond vocab_size {vocab_size}")


def share_width(hidden_size: int, num_attention_heads: int) -> None:
    """Raise `ValueError` unless the width is a multiple of the number of heads."""
    if hidden_size % num_attention_heads:
        raise ValueError(f"hidden_size {hidden_size} is not a multiple of num_attention_heads {num_attention_heads}")


Configuration = TypeVar("Configuration", bound="PretrainedConfig")


def to_transformers(kind: type[Configuration], part: ConfigPart) -> Configuration:
    """Return transformers' configuration object with these sizes."""
    config = kind(**part.model_dump())
    config._attn_implementation = ATTENTION
    return config


def in_words(error: ValidationError) -> str:
    """Return a readable message for the first three problems of a configuration."""
    problems = error.errors(include_url=False, include_context=False)
    messages = [
        f"{'.'.join(map(str, problem['loc']))} is {shortened(repr(problem['input']), 63)}: {problem['msg']}"
        for problem in problems
    ]
    return "; ".join(first_few(messages, 3))
