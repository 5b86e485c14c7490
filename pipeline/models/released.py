"""Published weights: their pages, files and sizes."""

from __future__ import annotations

from typing import NamedTuple


class ReleasedWeights(NamedTuple):
    """Weights that recipes name; `size` as published."""

    name: str
    title: str
    page: str
    files: str
    size: str


RELEASED = {
    weights.name: weights
    for weights in (
        ReleasedWeights(
            "Salesforce/blip2-flan-t5-xl",
            "BLIP-2 with Flan-T5 XL, the frozen ViT and language model and the Q-Former to begin with",
            "https://huggingface.co/Salesforce/blip2-flan-t5-xl",
            "config.json, tokenizer.json and the *.safetensors",
            # Parameters of the paper's model (ViT-g 1.0, Flan-T5 XL 2.85, Q-Former 0.1 billion) times bytes.
            "about 4 billion parameters: 16 GB in float32, 8 GB in 16 bits",
        ),
        ReleasedWeights(
            "sevila-pretrained",
            "SeViLA's Localizer (pre-trained on QVHighlights) and zero-shot Answerer, to be laid over BLIP-2",
            "https://github.com/Yui010206/SeViLA",
            "sevila_pretrained.pth",
            "814.55 MB",
        ),
    )
}
