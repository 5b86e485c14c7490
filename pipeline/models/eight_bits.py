"""Frozen linear layers with 8-bit matrix products, int8 or fp8 (e4m3), by torch's kernels.

Each row of the input (a token) and of the weights (an output) has its own scale, from its largest absolute value; the input's
scales are computed in every forward. Sums are exact in int32 (int8), or float32 (fp8).

Shapes: N rows, D inputs, E outputs.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from cache.errors import CheckpointError
from pipeline.models import checkpoint
from pipeline.models.config import ModelConfig
from pipeline.models.language import Language
from pipeline.precision import EIGHT_BITS, activations, why_not_on

EIGHT_BIT_DTYPES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
MULTIPLE = 16  # the kernels require D and E to be multiples of it
MIN_ROWS = 32  # cuBLAS's int8 product requires more than 16

# The last layer of a feed-forward block of T5, OPT and LLaMA is not converted: outliers in its input leave the other values of
# a row no precision. transformers keeps T5's in float32 where the rest is float16 or int8.
EXCLUDED = ("wo", "fc2", "down_proj")


class EightBitLinear(nn.Module):
    """A frozen `nn.Linear` that rounds its operands to 8 bits; [..., D] -> [..., E] in the input's dtype."""

    weight: Tensor
    scales: Tensor

    def __init__(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.bias = layer.bias
        weight, scales = _quantized(layer.weight, dtype)
        self.register_buffer("weight", weight)  # [E, D]
        self.register_buffer("scales", scales.T)  # [1, E] float32

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [..., E]."""
        rows, scales = _quantized(inputs.flatten(0, -2), self.weight.dtype)
        outputs = product(rows, scales, self.weight, self.scales).to(inputs.dtype)
        if self.bias is not None:
            outputs = outputs + self.bias
        return outputs.view(*inputs.shape[:-1], -1)


def _quantized(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return rows [N, D] in 8 bits and their scales [N, 1] float32."""
    largest = torch.linalg.vector_norm(rows, torch.inf, dim=-1, keepdim=True, dtype=torch.float32)
    scales = largest.clamp_(min=torch.finfo(torch.float32).tiny * LARGEST[dtype]) / LARGEST[dtype]
    scaled = rows / scales
    return (scaled.round_() if dtype == torch.int8 else scaled).to(dtype), scales


def product(rows: Tensor, scales: Tensor, weight: Tensor, weight_scales: Tensor) -> Tensor:
    """Return the products [N, E] (int8: float32, fp8: bfloat16) of rows [N, D] and weights [E, D] of the same 8-bit dtype.

    Args:
        scales, weight_scales: [N, 1] and [1, E] float32.
    """
    if weight.dtype != torch.int8:
        return torch._scaled_mm(rows, weight.T, scale_a=scales, scale_b=weight_scales, out_dtype=torch.bfloat16)
    n_rows = len(rows)
    if n_rows < MIN_ROWS:
        rows = functional.pad(rows, (0, 0, 0, MIN_ROWS - n_rows))
    return torch._int_mm(rows, weight.T)[:n_rows] * scales * weight_scales


def to_eight_bits(language: Language, precision: str) -> None:
    """Replace the linear layers of `language.reading_blocks` by 8-bit ones, in place.

    `lm_head` stays float32, as frames are ranked by its logits. T5's decoder is not converted: its few tokens per row are a small
    part of the arithmetic, and its cross-attention is folded.

    Args:
        language: loaded in bfloat16.
        precision: int8 or fp8.

    Raises:
        CheckpointError: the device does not support the precision, or a layer's width is no multiple of `MULTIPLE`.
    """
    if problem := why_not_on(precision, str(language.device)):
        raise CheckpointError(problem)
    for name, layer in list(language.reading_blocks.named_modules()):
        if not isinstance(layer, nn.Linear) or name.rpartition(".")[2] in EXCLUDED:
            continue
        if layer.in_features % MULTIPLE or layer.out_features % MULTIPLE:
            raise CheckpointError(
                f"the language model's {name} has size {layer.in_features} x {layer.out_features}; {precision} requires "
                f"multiples of {MULTIPLE}; set the precision to bfloat16"
            )
        language.reading_blocks.set_submodule(name, EightBitLinear(layer, EIGHT_BIT_DTYPES[precision]))


def load_language_in(precision: str, config: ModelConfig, folder: Path, device: str) -> Language:
    """Return the frozen language model and its tokenizer from a Hugging Face directory.

    Args:
        precision: float32, bfloat16, int8 or fp8.

    Raises:
        CheckpointError: as `load_verbalizer`, `load_language` and `to_eight_bits`.
    """
    dtype = getattr(torch, activations(precision))
    language = checkpoint.load_language(config, folder, checkpoint.load_verbalizer(config, folder), dtype, device)
    if precision in EIGHT_BITS:
        to_eight_bits(language, precision)
    return language
