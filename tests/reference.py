"""The folder of reference numbers (layout: tests/golden/README.md) and our models loaded from it."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.models.answerer import Answerer
from pipeline.models.checkpoint import load_language, load_vision_encoder, load_visual_prompt
from pipeline.models.config import ModelConfig, model_config
from pipeline.models.localizer import Localizer
from pipeline.models.verbalizer import TokenizedTexts, Verbalizer

PARITY = Path(__file__).parent / "golden" / "parity"


class Reference:
    """Results of the official code for one tiny model. All sizes and ids come from the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.weights = folder / "reference_model.safetensors"
        self.sizes: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.texts: dict[str, Any] = json.loads((folder / "golden.json").read_text())
        self.inputs: dict[str, Any] = json.loads((folder / "inputs.json").read_text())
        with np.load(folder / "golden.npz") as arrays:
            self.golden = {name: arrays[name] for name in arrays.files}
        with np.load(folder / "inputs.npz") as arrays:
            self.videos = torch.from_numpy(arrays["videos"])  # [videos, frames, 3, height, width]

    @property
    def config(self) -> ModelConfig:
        sizes = self.sizes
        vision = {
            "hidden_size": sizes["vit"]["embed_dim"],
            "intermediate_size": sizes["vit_mlp_hidden"],
            "num_hidden_layers": sizes["vit"]["depth"],
            "num_attention_heads": sizes["vit"]["num_heads"],
            "image_size": sizes["img_size"],
            "patch_size": sizes["patch_size"],
            "layer_norm_eps": sizes["vit_ln_eps"],
        }
        qformer = {
            **sizes["qformer"],
            "layer_norm_eps": sizes["qformer_ln_eps"],
            "cross_attention_frequency": sizes["qformer_cross_attention_freq"],
            "hidden_act": sizes["qformer_hidden_act"],
        }
        return model_config(vision, qformer, sizes["t5_config"], sizes["num_query_token"])

    @cached_property
    def verbalizer(self) -> Verbalizer:
        return Verbalizer(self.folder / "tokenizer.json", required_letters=len(self.sizes["answer_id"]))

    @cached_property
    def features(self) -> Tensor:
        """[videos, frames, P, D]"""
        with torch.no_grad():
            frames = load_vision_encoder(self.config, self.weights)(self.videos.flatten(0, 1))
        return frames.unflatten(0, self.videos.shape[:2])

    @cached_property
    def localizer(self) -> Localizer:
        language = load_language(self.config, self.weights, self.verbalizer)
        return Localizer(load_visual_prompt(self.config, self.weights, "localizer"), language)

    @cached_property
    def answerer(self) -> Answerer:
        return Answerer(load_visual_prompt(self.config, self.weights, "answerer"), self.localizer.language)

    def visual(self, model: Localizer | Answerer) -> Tensor:
        """Visual tokens [videos, frames, Q, L] of all frames."""
        return model.visual(self.features.flatten(0, 1)).unflatten(0, self.videos.shape[:2])

    def tokens(self, key: str) -> TokenizedTexts:
        """The samples' "qa_input" or "loc_input", tokenised."""
        return self.verbalizer.tokenize([sample[key] for sample in self.inputs["samples"]], self.sizes["max_txt_len"])
