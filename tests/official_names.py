"""The trainable tensors of a Hugging Face BLIP-2 under official names, written independently of pipeline's tables."""

import torch
from torch import Tensor


def official_names(tensors: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return Localizer (`_loc`) and Answerer tensors of the right shapes with random values."""
    generator = torch.Generator().manual_seed(seed)
    names = {
        "vision_model.post_layernorm.": "ln_vision{loc}.",
        "language_projection.": "t5_proj{loc}.",
        "qformer.layernorm.": "Qformer{loc}.bert.embeddings.LayerNorm.",
        "qformer.": "Qformer{loc}.bert.",
        "query_tokens": "query_tokens{loc}",
    }
    official = {}
    for name, tensor in tensors.items():
        prefix = next((prefix for prefix in names if name.startswith(prefix)), None)
        if prefix is None:
            continue
        rest = name.removeprefix(prefix).replace("attention.attention.", "attention.self.")
        for loc in ("", "_loc"):
            official[names[prefix].format(loc=loc) + rest] = torch.randn(tensor.shape, generator=generator) * 0.1
    return official


def official_name(own: str, part: str) -> str:
    """Return the official name of one of our VisualPrompt's parameters; `part` is "localizer" or "answerer"."""
    loc = "_loc" if part == "localizer" else ""
    names = {
        "layer_norm.": f"ln_vision{loc}.",
        "projection.": f"t5_proj{loc}.",
        "qformer.layernorm.": f"Qformer{loc}.bert.embeddings.LayerNorm.",
        "qformer.": f"Qformer{loc}.bert.",
        "query_tokens": f"query_tokens{loc}",
    }
    prefix = next(prefix for prefix in names if own.startswith(prefix))
    return names[prefix] + own.removeprefix(prefix).replace("attention.attention.", "attention.self.")
