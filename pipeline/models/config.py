"""Sizes of a BLIP-2 Flan-T5, read from the `config.json` of a Hugging Face directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import Blip2QFormerConfig, Blip2VisionConfig, T5Config

from cache.errors import CheckpointError
from pipeline.checkpoint_files import read_json


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
        return _side(self.vision.image_size)

    @property
    def feature_shape(self) -> tuple[int, int]:
        """Shape (P, D) of one frame's features: patches + 1 class token, vision width."""
        return (self.image_size // _side(self.vision.patch_size)) ** 2 + 1, self.vision.hidden_size


def model_config(
    vision: dict[str, Any], qformer: dict[str, Any], text: dict[str, Any], num_query_tokens: int
) -> ModelConfig:
    """Return the configuration with what every SeViLA model has in common put right.

    The activation is the exact gelu: the official code overrides Flan-T5's own `gelu_new` with it, and transformers
    sets `gelu_new` for every `gated-gelu` configuration, whatever `dense_act_fn` says.
    """
    text_config = T5Config.from_dict(text)
    text_config.dense_act_fn = "gelu"
    qformer_config = Blip2QFormerConfig.from_dict({**qformer, "encoder_hidden_size": vision["hidden_size"]})
    vision_config = Blip2VisionConfig.from_dict(vision)
    vision_config.image_size, vision_config.patch_size = (
        _side(vision_config.image_size),
        _side(vision_config.patch_size),
    )
    return ModelConfig(vision_config, qformer_config, text_config, num_query_tokens)


def read_blip2_config(folder: Path) -> ModelConfig:
    """Return the sizes of the BLIP-2 Flan-T5 in `folder`.

    Raises:
        CheckpointError: there is no readable `config.json`, or it describes another model (InstructBLIP, BLIP-2 OPT).
    """
    path = folder / "config.json"
    if not path.exists():
        raise CheckpointError(
            f"{path}: not found; wanted the directory of a BLIP-2 Flan-T5 as Hugging Face lays it out, for example a "
            "download of Salesforce/blip2-flan-t5-xl"
        )
    raw = read_json(path)
    _check_architecture(path, raw)
    # Files on the hub leave out what equals the default of the day: BLIP-2's own sizes, which are still the defaults.
    vision = {"hidden_size": Blip2VisionConfig().hidden_size, **raw.get("vision_config", {})}
    try:
        return model_config(vision, raw.get("qformer_config", {}), raw["text_config"], raw.get("num_query_tokens", 32))
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a configuration that can be built: {error}") from error


def _check_architecture(path: Path, raw: dict[str, Any]) -> None:
    text, qformer = raw.get("text_config") or {}, raw.get("qformer_config") or {}
    found_wanted = {
        "model_type": (raw.get("model_type"), "blip-2"),
        "text_config.model_type": (text.get("model_type"), "t5"),
        "text_config.feed_forward_proj": (text.get("feed_forward_proj"), "gated-gelu"),
        "qformer_config.use_qformer_text_input": (qformer.get("use_qformer_text_input", False), False),
    }
    wrong = [
        f"{key} is {found!r}, wanted {wanted!r}" for key, (found, wanted) in found_wanted.items() if found != wanted
    ]
    if wrong:
        raise CheckpointError(
            f"{path}: {'; '.join(wrong)}. SeViLA needs BLIP-2 with Flan-T5 (Salesforce/blip2-flan-t5-xl or -xxl), not "
            "InstructBLIP, BLIP-2 OPT or an image-text retrieval model"
        )


def _side(size: int | list[int] | tuple[int, int]) -> int:
    """Return the one side of a square that transformers lets one write as a number or as a pair."""
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise CheckpointError(f"config.json: image and patch sizes must be squares, found {size}")
    return sides.pop()
