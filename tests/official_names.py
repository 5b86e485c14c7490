"""The trainable tensors of a Hugging Face BLIP-2 under the official SeViLA's names, written independently of pipeline's tables."""

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
