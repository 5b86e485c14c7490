"""OPT, as in BLIP-2 OPT (Li et al., "BLIP-2", ICML 2023): a decoder-only language model."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from pipeline.models.config_parts import (
    Activation,
    ConfigPart,
    Fraction,
    Layers,
    LayerSize,
    TokenId,
    check_ids,
    share_width,
)
from pipeline.models.language_kind import LanguageKind


class OptSizes(ConfigPart):
    """Keys of an OPT's `text_config`."""

    vocab_size: Annotated[int, Field(ge=1, le=1 << 24)] = 50272
    hidden_size: LayerSize = 768
    num_hidden_layers: Layers = 12
    ffn_dim: LayerSize = 3072
    num_attention_heads: LayerSize = 12
    max_position_embeddings: Annotated[int, Field(ge=4, le=1 << 20)] = 2048
    word_embed_proj_dim: LayerSize | None = None  # None: hidden_size
    activation_function: Activation = "relu"
    do_layer_norm_before: bool = True
    enable_bias: bool = True
    layer_norm_elementwise_affine: bool = True
    dropout: Fraction = 0.1
    attention_dropout: Fraction = 0.0
    pad_token_id: TokenId = 1
    bos_token_id: TokenId = 2
    eos_token_id: TokenId = 2  # BLIP-2 OPT's own: 50118, the end of a line
    tie_word_embeddings: bool = True

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_ids(self.vocab_size, self.pad_token_id, self.bos_token_id, self.eos_token_id)
        share_width(self.hidden_size, self.num_attention_heads)
        if self.word_embed_proj_dim not in (None, self.hidden_size):
            raise ValueError(
                f"word_embed_proj_dim {self.word_embed_proj_dim} differs from hidden_size {self.hidden_size}: visual tokens "
                "must have the width of word embeddings"
            )
        return self


OPT = LanguageKind(
    name="opt",
    title="OPT",
    config="OPTConfig",
    model="OPTForCausalLM",
    sizes=OptSizes,
    copies={"lm_head.weight": "model.decoder.embed_tokens.weight"},
)
