"""Tables that map foreign checkpoints' tensor names to ours, one per part and layout.

Part: the ViT, the language model, or a VisualPrompt. Layout: Hugging Face (a BLIP-2 directory, from the hub or saved by
transformers) or official (the LAVIS fork's names, in a `.pth` or `.safetensors` file).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class KeyTable:
    """The tensor names of one part in a checkpoint.

    Attributes:
        belongs: pattern at the start of the foreign names of this part; other names belong to other parts.
        renames: (pattern of a full foreign name, our name). Where two foreign names map to one of ours, `checkpoint` joins the
            tensors.
        ignored: pattern of foreign names that are not needed -> why.
    """

    belongs: str
    renames: tuple[tuple[str, str], ...]
    ignored: dict[str, str] = field(default_factory=dict)

    def resolve(self, foreign_names: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
        """Return ({our name: foreign names, sorted}, foreign names of this part that are not in the table)."""
        sources: dict[str, list[str]] = {}
        unknown: list[str] = []
        for name in sorted(foreign_names):
            if not re.match(self.belongs, name) or any(re.fullmatch(pattern, name) for pattern in self.ignored):
                continue
            own = next(
                (re.sub(pattern, own, name) for pattern, own in self.renames if re.fullmatch(pattern, name)), None
            )
            if own is None:
                unknown.append(name)
            else:
                sources.setdefault(own, []).append(name)
        return sources, unknown


def _official_prompt(suffix: str) -> KeyTable:
    qformer = rf"Qformer{suffix}\.bert\."
    layer = rf"{qformer}encoder\.layer\.(\d+)\."
    projection = rf"(?:t5|opt|llm|llama)_proj{suffix}\."  # LAVIS names it after the language model
    return KeyTable(
        belongs=rf"ln_vision{suffix}\.|query_tokens{suffix}$|Qformer{suffix}\.|{projection}",
        renames=(
            (rf"ln_vision{suffix}\.(weight|bias)", r"layer_norm.\1"),
            (rf"query_tokens{suffix}", "query_tokens"),
            (rf"{projection}(weight|bias)", r"projection.\1"),
            (rf"{qformer}embeddings\.LayerNorm\.(weight|bias)", r"qformer.layernorm.\1"),
            (rf"{layer}(attention|crossattention)\.self\.(.+)", r"qformer.encoder.layer.\1.\2.attention.\3"),
            (rf"{layer}(attention|crossattention)\.output\.(.+)", r"qformer.encoder.layer.\1.\2.output.\3"),
            (rf"{layer}(intermediate_query|output_query)\.(.+)", r"qformer.encoder.layer.\1.\2.\3"),
        ),
        ignored={rf"{qformer}embeddings\.position_ids": "positions of text, which this Q-Former does not read"},
    )


OFFICIAL_ANSWERER = _official_prompt("")  # also the one Q-Former of an official BLIP-2 checkpoint
OFFICIAL_LOCALIZER = _official_prompt("_loc")

_BLOCK = r"visual_encoder\.blocks\.(\d+)\."
OFFICIAL_VISION = KeyTable(
    belongs=r"visual_encoder\.",
    renames=(
        (r"visual_encoder\.cls_token", "embeddings.class_embedding"),
        (r"visual_encoder\.pos_embed", "embeddings.position_embedding"),
        (r"visual_encoder\.patch_embed\.proj\.(weight|bias)", r"embeddings.patch_embedding.\1"),
        (rf"{_BLOCK}norm([12])\.(weight|bias)", r"encoder.layers.\1.layer_norm\2.\3"),
        (rf"{_BLOCK}attn\.qkv\.weight", r"encoder.layers.\1.self_attn.qkv.weight"),
        (rf"{_BLOCK}attn\.[qv]_bias", r"encoder.layers.\1.self_attn.qkv.bias"),  # (q, v): keys have no bias
        (rf"{_BLOCK}attn\.proj\.(weight|bias)", r"encoder.layers.\1.self_attn.projection.\2"),
        (rf"{_BLOCK}mlp\.(fc[12])\.(weight|bias)", r"encoder.layers.\1.mlp.\2.\3"),
    ),
)
OFFICIAL_LANGUAGE = KeyTable(belongs=r"t5_model\.", renames=((r"t5_model\.(.+)", r"\1"),))

# BLIP-2's LayerNorm on ViT features, here the ViT's post_layernorm, belongs to the VisualPrompt.
HUGGING_FACE_PROMPT = KeyTable(
    belongs=r"vision_model\.post_layernorm\.|query_tokens$|qformer\.|language_projection\.",
    renames=(
        (r"vision_model\.post_layernorm\.(weight|bias)", r"layer_norm.\1"),
        (r"query_tokens", "query_tokens"),
        (r"language_projection\.(weight|bias)", r"projection.\1"),
        (r"qformer\.(.+)", r"qformer.\1"),
    ),
)
HUGGING_FACE_VISION = KeyTable(
    belongs=r"vision_model\.(?!post_layernorm\.)",
    renames=((r"vision_model\.(.+)", r"\1"),),
)
HUGGING_FACE_LANGUAGE = KeyTable(belongs=r"language_model\.", renames=((r"language_model\.(.+)", r"\1"),))

OWN = KeyTable(belongs="", renames=((r"(.+)", r"\1"),))  # a VisualPrompt saved by us

# The reverse, to write a VisualPrompt: prefix of our name -> prefix of the foreign name; the first match counts.
_TO_OFFICIAL = (
    ("layer_norm.", "ln_vision{suffix}."),
    ("query_tokens", "query_tokens{suffix}"),
    ("projection.", "t5_proj{suffix}."),
    ("qformer.layernorm.", "Qformer{suffix}.bert.embeddings.LayerNorm."),
    ("qformer.", "Qformer{suffix}.bert."),
)
_TO_HUGGING_FACE = (
    ("layer_norm.", "vision_model.post_layernorm."),
    ("query_tokens", "query_tokens"),
    ("projection.", "language_projection."),
    ("qformer.", "qformer."),
)


def official_name(own: str, suffix: str) -> str:
    """Return the official name of a VisualPrompt's tensor; `suffix` is "_loc" for a Localizer, else empty."""
    return _renamed(own, _TO_OFFICIAL).format(suffix=suffix).replace("attention.attention.", "attention.self.")


def hugging_face_name(own: str) -> str:
    """Return the name of a VisualPrompt's tensor in a Hugging Face BLIP-2."""
    return _renamed(own, _TO_HUGGING_FACE)


def _renamed(own: str, table: tuple[tuple[str, str], ...]) -> str:
    start, foreign = next(pair for pair in table if own.startswith(pair[0]))
    return foreign + own.removeprefix(start)
