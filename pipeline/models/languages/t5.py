"""Flan-T5, an encoder-decoder language model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from pipeline.models.config_parts import ConfigPart, Epsilon, Fraction, Layers, LayerSize, TokenId
from pipeline.models.language_kind import LanguageKind

if TYPE_CHECKING:
    from pipeline.models.language import Language
    from pipeline.models.verbalizer import Verbalizer


class T5Sizes(ConfigPart):
    """Keys of a Flan-T5's `text_config`."""

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
    decoder_start_token_id: TokenId | None = None  # None: the padding token


def _tokenizer(path: Path, config: Any) -> Verbalizer:
    from pipeline.models.verbalizer import Verbalizer

    return Verbalizer(path)


def _language(model: Any, verbalizer: Verbalizer) -> Language:
    from pipeline.models.t5_language import T5Language

    return T5Language(model, verbalizer)


# The activation is the exact gelu, with which the official code replaces Flan-T5's `gelu_new`; transformers sets `gelu_new` for
# every `gated-gelu` configuration, regardless of `dense_act_fn`. The decoder's output is not scaled.
_AS_TRAINED = {"dense_act_fn": "gelu", "scale_decoder_outputs": False}

T5 = LanguageKind(
    name="t5",
    title="Flan-T5",
    config="T5Config",
    model="T5ForConditionalGeneration",
    sizes=T5Sizes,
    required={"feed_forward_proj": "gated-gelu"},
    settings=_AS_TRAINED,
    # By default transformers ties `lm_head` to the embeddings.
    exported={**_AS_TRAINED, "tie_word_embeddings": False},
    copies={"encoder.embed_tokens.weight": "shared.weight", "decoder.embed_tokens.weight": "shared.weight"},
    tokenizer=_tokenizer,
    language=_language,
)
