"""Greedy generation of text by the language model."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.models.language import Language, LanguageInput


class Generated(NamedTuple):
    """Generated texts of R rows with at most M tokens each.

    Attributes:
        token_ids: [R, M] int64, with `</s>` if it was generated, followed by padding.
        log_probabilities: [R, M] float32 of each token; 0 after `</s>`.
    """

    token_ids: Tensor
    log_probabilities: Tensor


@torch.no_grad()
def generate(language: Language, inputs: LanguageInput, max_tokens: int) -> Generated:
    """Return the greedy texts of R rows, as transformers' `generate` does; a row ends with `</s>` or after `max_tokens`.

    Each step decodes all previous tokens again: for short answers a key/value cache does not pay.
    """
    hidden, verbalizer = language.encode(inputs), language.verbalizer
    decoded = language.decoder_ids(len(hidden))
    log_probabilities = hidden.new_zeros((len(hidden), max_tokens), dtype=torch.float32)
    is_over = torch.zeros(len(hidden), dtype=torch.bool, device=decoded.device)
    for step in range(max_tokens):
        best = language.decode(hidden, inputs.mask, decoded)[:, -1].log_softmax(dim=-1).max(dim=-1)
        log_probabilities[:, step] = best.values.masked_fill(is_over, 0.0)
        decoded = torch.cat([decoded, best.indices.masked_fill(is_over, verbalizer.pad_id)[:, None]], dim=1)
        is_over = is_over | (best.indices == verbalizer.end_id)
        if bool(is_over.all()):
            break
    token_ids = decoded.new_full((len(hidden), max_tokens), verbalizer.pad_id)
    token_ids[:, : decoded.shape[1] - 1] = decoded[:, 1:]
    return Generated(token_ids, log_probabilities)
