"""LLaMA and models with its layout, such as Vicuna: a decoder-only language model."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.models.config_parts import (
    Activation,
    ConfigPart,
    Epsilon,
    Fraction,
    Layers,
    LayerSize,
    TokenId,
    check_ids,
    share_width,
)
from pipeline.models.language_kind import LanguageKind


class _RotaryPositions(ConfigPart):
    rope_theta: Annotated[float, Field(ge=1, le=1e12, allow_inf_nan=False)] = 10000.0
    rope_type: Literal["default"] = "default"


class LlamaSizes(ConfigPart):
    """Keys of a LLaMA's `text_config`."""

    vocab_size: Annotated[int, Field(ge=1, le=1 << 24)] = 32000
    hidden_size: LayerSize = 4096
    intermediate_size: LayerSize = 11008
    num_hidden_layers: Layers = 32
    num_attention_heads: LayerSize = 32
    num_key_value_heads: LayerSize | None = None  # None: num_attention_heads
    head_dim: LayerSize | None = None
    hidden_act: Activation = "silu"
    max_position_embeddings: Annotated[int, Field(ge=4, le=1 << 20)] = 2048
    rms_norm_eps: Epsilon = 1e-6
    pad_token_id: TokenId | None = None
    bos_token_id: TokenId = 1
    eos_token_id: TokenId = 2
    tie_word_embeddings: bool = False
    rope_parameters: _RotaryPositions = _RotaryPositions()
    attention_bias: bool = False
    attention_dropout: Fraction = 0.0
    mlp_bias: bool = False

    @model_validator(mode="before")
    @classmethod
    def _as_written_by_older_releases(cls, raw: Any) -> Any:
        """Move `rope_theta` to its key in transformers 5; refuse scaled positions (`rope_scaling`)."""
        if not isinstance(raw, dict):
            return raw
        if raw.get("rope_scaling") is not None:
            raise ValueError("rope_scaling is set; scaled rotary positions are not supported")
        theta = raw.get("rope_theta")
        is_older = raw.get("rope_parameters") is None and theta is not None
        return raw | {"rope_parameters": {"rope_theta": theta}} if is_older else raw

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_ids(self.vocab_size, self.pad_token_id, self.bos_token_id, self.eos_token_id)
        share_width(self.hidden_size, self.num_attention_heads)
        shared = self.num_key_value_heads
        if shared is not None and self.num_attention_heads % shared:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads {shared}"
            )
        if (self.head_dim or self.hidden_size // self.num_attention_heads) % 2:
            raise ValueError("the width of a head is odd; rotary positions require an even width")
        return self


LLAMA = LanguageKind(
    name="llama",
    title="LLaMA",
    config="LlamaConfig",
    model="LlamaForCausalLM",
    sizes=LlamaSizes,
    copies={"lm_head.weight": "model.embed_tokens.weight"},
)
