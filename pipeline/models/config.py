"""Sizes of a BLIP-2, read from the `config.json` of a Hugging Face directory."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self

import transformers
from pydantic import Field, ValidationError, create_model, model_validator
from transformers import Blip2QFormerConfig, Blip2VisionConfig

from cache.errors import CheckpointError
from cache.printable import shortened
from pipeline.checkpoint_files import read_model_json
from pipeline.models.config_parts import (
    Activation,
    AttentionSizes,
    ConfigPart,
    Epsilon,
    Fraction,
    Layers,
    LayerSize,
    Pixels,
    Spread,
    in_words,
    to_transformers,
)
from pipeline.models.language_kind import LANGUAGES, LanguageKind

log = logging.getLogger("sevila")

OFFICIAL_VISION_EPSILON = 1e-6  # of the ViT's blocks in the official code, with which released weights were trained


# Files on the hub omit values equal to transformers' defaults, which are BLIP-2's sizes.
class VisionSizes(AttentionSizes):
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


class QFormerSizes(AttentionSizes):
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


class _Model(ConfigPart):
    vision_config: VisionSizes = VisionSizes()
    qformer_config: QFormerSizes = QFormerSizes()
    num_query_tokens: Annotated[int, Field(ge=1, le=4096)] = 32


@dataclass(frozen=True)
class ModelConfig:
    """Configurations of the three modules, from `model_config` or `read_blip2_config`."""

    vision: Blip2VisionConfig
    qformer: Blip2QFormerConfig
    text: Any  # transformers' class for the kind of language model
    num_query_tokens: int

    @property
    def kind(self) -> LanguageKind:
        """The kind of language model."""
        return LANGUAGES.named(self.text.model_type)

    @property
    def image_size(self) -> int:
        """Height and width in pixels of the frames the ViT reads."""
        size: Any = self.vision.image_size
        return int(size)

    @property
    def feature_shape(self) -> tuple[int, int]:
        """Shape (P, D) of one frame's features: patches + class token, vision width."""
        patch: Any = self.vision.patch_size
        return (self.image_size // int(patch)) ** 2 + 1, self.vision.hidden_size


def model_config(
    vision: dict[str, Any], qformer: dict[str, Any], text: dict[str, Any], num_query_tokens: int
) -> ModelConfig:
    """Return the configuration with the settings that all SeViLA models share.

    Args:
        text: `model_type` names the kind of language model; Flan-T5 if absent.

    Raises:
        ValueError: a value of a wrong type or out of bounds.
    """
    kind = LANGUAGES.named(text.get("model_type") or "t5")
    schema: Any = create_model("_Blip2", __base__=_Model, text_config=(kind.sizes, kind.sizes()))
    raw = {"vision_config": vision, "qformer_config": qformer, "text_config": text}
    sizes = schema.model_validate(raw | {"num_query_tokens": num_query_tokens})
    text_config = to_transformers(getattr(transformers, kind.config), sizes.text_config)
    for key, value in kind.settings.items():
        setattr(text_config, key, value)
    vision_config = to_transformers(Blip2VisionConfig, sizes.vision_config)
    qformer_config = to_transformers(Blip2QFormerConfig, sizes.qformer_config)
    qformer_config.encoder_hidden_size = vision_config.hidden_size
    return ModelConfig(vision_config, qformer_config, text_config, sizes.num_query_tokens)


def read_blip2_config(folder: Path) -> ModelConfig:
    """Return the sizes of the BLIP-2 in `folder`.

    Raises:
        CheckpointError: there is no readable `config.json`, or it describes another model (InstructBLIP).
    """
    path = folder / "config.json"
    if not path.exists():
        problem = f"{folder}: is a file" if folder.is_file() else f"{path}: not found"
        raise CheckpointError(
            f"{problem}; expected the directory of a BLIP-2 in the Hugging Face layout, for example a download of "
            "Salesforce/blip2-flan-t5-xl"
        )
    raw = read_model_json(path)
    parts: dict[str, Any] = {name: raw.get(name) or {} for name in ("vision_config", "qformer_config", "text_config")}
    wrong = [name for name, part in parts.items() if not isinstance(part, dict)]
    if wrong:
        raise CheckpointError(f"{path}: {wrong[0]} is a {type(parts[wrong[0]]).__name__}; expected an object")
    vision, qformer, text = parts.values()
    _check_architecture(path, raw.get("model_type"), text, qformer)
    n_tokens = raw.get("num_query_tokens")
    try:
        config = model_config(vision, qformer, text, 32 if n_tokens is None else n_tokens)
    except ValidationError as error:
        raise CheckpointError(f"{path}: not a valid configuration: {in_words(error)}") from error
    _warn_of_epsilon(path, config.vision.layer_norm_eps)
    return config


@cache  # once per file, which is read for every model that a run loads
def _warn_of_epsilon(path: Path, epsilon: float) -> None:
    """Warn of an epsilon other than the official code's, as configurations by older releases on the hub have."""
    if epsilon != OFFICIAL_VISION_EPSILON:
        log.warning(
            "%s: vision_config.layer_norm_eps is %g; released SeViLA weights were trained with the official code's %g. "
            "Set it in the file to reproduce the paper's numbers; the features are then extracted again",
            *(path, epsilon, OFFICIAL_VISION_EPSILON),
        )


def _check_architecture(path: Path, model_type: Any, text: dict[str, Any], qformer: dict[str, Any]) -> None:
    names, name = LANGUAGES.names(), text.get("model_type")
    required = LANGUAGES.named(name).required if name in names else {}
    actual_and_allowed = {
        "model_type": (model_type, ("blip-2",)),
        "text_config.model_type": (name, names),
        **{f"text_config.{key}": (text.get(key), (value,)) for key, value in required.items()},
        "qformer_config.use_qformer_text_input": (qformer.get("use_qformer_text_input", False), (False,)),
    }
    wrong = [
        f"{key} is {shortened(repr(value), 63)}, expected {' or '.join(map(repr, allowed))}"
        for key, (value, allowed) in actual_and_allowed.items()
        if value not in allowed
    ]
    if wrong:
        raise CheckpointError(
            f"{path}: {'; '.join(wrong)}. SeViLA needs a BLIP-2 with Flan-T5 (Salesforce/blip2-flan-t5-xl or -xxl), OPT or "
            "LLaMA, not InstructBLIP, whose Q-Former reads the question, or an image-text retrieval model"
        )
