"""The interface of frozen language models: from frames' visual tokens and a prompt to logits of the next tokens.

Shapes: R rows (one question each), K frames a row, Q query tokens, D language width, W tokens of a frame prefix,
N tokens of the longest text, S = K * (W + Q) + N, M steps = tokens of the longest target, V vocabulary.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cache.errors import CheckpointError
from pipeline.models.transfer import to_device
from pipeline.models.verbalizer import Verbalizer


class LanguageInput(NamedTuple):
    """The model's input: embeddings [R, S, D] in the model's dtype and mask [R, S] int64 (0: padding)."""

    embeddings: Tensor
    mask: Tensor


class Language(ABC):
    """A frozen language model with its verbalizer, shared by Localizer and Answerer.

    Gradients flow through to the visual tokens; for inference, call it under `torch.no_grad`.

    Attributes:
        start_id: the decoder's first token in every row.
        reading_blocks: the blocks that process the input, which is nearly all of the arithmetic.
        viewed: of a view, the model itself, which is in use as long as the view is.
    """

    start_id: int
    reading_blocks: nn.ModuleList
    viewed: Language | None = None

    def __init__(self, model: Any, verbalizer: Verbalizer) -> None:
        """Freeze `model`, disable dropout, and convert `lm_head` to float32.

        Logits in bfloat16 have 8 significant bits: frames with different scores would tie.

        Raises:
            CheckpointError: the tokenizer does not belong to the model.
        """
        self.model = model.eval().requires_grad_(False)
        self._embed = model.get_input_embeddings()
        self._multiple = 1
        self.verbalizer = verbalizer
        self._check_tokenizer()
        self.model.lm_head.float()
        if self.device.type != "cpu":
            # cuDNN builds a plan for every new shape, in half a second per direction, and most batches have a new shape.
            torch.backends.cuda.enable_cudnn_sdp(False)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of embeddings and hidden states."""
        dtype: torch.dtype = self._embed.weight.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """The device of the model and its inputs."""
        device: torch.device = self._embed.weight.device
        return device

    def assemble(self, prefixes: Sequence[str], visual: Tensor, token_ids: Sequence[Sequence[int]]) -> LanguageInput:
        """Return `[prefix 1][frame 1] ... [prefix K][frame K][text]` as embeddings and mask.

        Prefixes are padded in place to the longest ("Frame 10: " is longer than "Frame 1: "), and texts at the end. Padding is
        masked, but T5's relative positions count that of prefixes (official `sevila.py`, forward).

        Args:
            prefixes: K texts, the same for all rows.
            visual: [R, K, Q, D], any float dtype.
            token_ids: R texts from `verbalizer.tokenize`.
        """
        rows, frames = visual.shape[:2]
        assert len(prefixes) == frames and len(token_ids) == rows, (len(prefixes), visual.shape, len(token_ids))
        prefix_ids, prefix_mask = self._padded(self.verbalizer.tokenize_prefixes(prefixes))  # [K, W]
        before_text = frames * (prefix_ids.shape[1] + visual.shape[2])
        text_ids, text_mask = self._padded(token_ids, before_text)  # [R, N]
        prefix = self._embed(prefix_ids).expand(rows, -1, -1, -1)  # [R, K, W, D]
        framed = torch.cat([prefix, visual.to(self.device, self.dtype)], dim=2).flatten(1, 2)  # [R, K * (W + Q), D]
        visual_mask = prefix_mask.new_ones(frames, visual.shape[2])
        frames_mask = torch.cat([prefix_mask, visual_mask], dim=1).flatten().expand(rows, -1)
        embeddings = torch.cat([framed, self._embed(text_ids)], dim=1)
        return LanguageInput(embeddings, torch.cat([frames_mask, text_mask], dim=1))

    def text_only(self, token_ids: Sequence[Sequence[int]]) -> LanguageInput:
        """Return R texts from `verbalizer.tokenize` as embeddings and mask, without frames."""
        text_ids, mask = self._padded(token_ids, 0)
        return LanguageInput(self._embed(text_ids), mask)

    @abstractmethod
    def encode(self, inputs: LanguageInput) -> Tensor:
        """Return the part of the computation that does not depend on the decoder's tokens, [R, S, D]."""

    @abstractmethod
    def decode(self, hidden: Tensor, mask: Tensor, decoder_ids: Tensor) -> Tensor:
        """Return the next tokens' logits [R, M, V] float32 after each of `decoder_ids` [R, M], which start with `start_id`.

        Args:
            hidden: [R, S, D], from `encode`.
            mask: [R, S], of the input.
        """

    @abstractmethod
    def states(self, inputs: LanguageInput) -> Tensor:
        """Return the last hidden states of the input, [R, S, D]."""

    @abstractmethod
    def saving_memory(self) -> Language:
        """Return a view of the model that recomputes each block's activations in the backward pass.

        transformers' own switch works in training mode only, which enables dropout. Each block is wrapped by itself: around the
        whole stack no memory would be saved, because its backward pass would hold the activations of all blocks.
        """

    def log_likelihood(self, hidden: Tensor, mask: Tensor, target_ids: Sequence[Sequence[int]]) -> Tensor:
        """Return the log-probability of each row's target text, [R] float32, summed over its tokens; differentiable.

        Losses are its negative sum, so that parts of a batch add up to the whole. The official loss is the sum over a batch
        divided by the number of its target tokens.

        Args:
            hidden, mask: as for `decode`.
            target_ids: R texts from `verbalizer.tokenize_targets`, with the end token: without it "a cat" would always be at
                least as likely as "a cat on a mat".
        """
        targets, target_mask = self._padded(target_ids)  # [R, M]
        start = torch.full_like(targets[:, :1], self.start_id)
        logits = self.decode(hidden, mask, torch.cat([start, targets[:, :-1]], dim=1))
        of_targets = logits.log_softmax(dim=-1).gather(2, targets.unsqueeze(2)).squeeze(2)
        return of_targets.masked_fill(target_mask == 0, 0.0).sum(dim=1)

    def decoder_ids(self, rows: int, *after_start: int) -> Tensor:
        """Return [rows, 1 + len(after_start)] int64: the start token and the tokens after it, the same in every row."""
        return self.on_device([[self.start_id, *after_start]]).expand(rows, -1)

    def on_device(self, numbers: Any) -> Tensor:
        """Return (nested) lists of numbers as a tensor on the model's device, without a synchronisation."""
        return to_device(np.array(numbers), str(self.device))

    def _as_loaded(self) -> torch.autocast:
        """Disable an autocast of the caller: compute in the dtypes of the weights, with float32 logits."""
        return torch.autocast(self.device.type, enabled=False)

    def _padded(self, token_ids: Sequence[Sequence[int]], n_before: int | None = None) -> tuple[Tensor, Tensor]:
        """Return ids and mask [R, N] int64.

        With `n_before`, the number of tokens before them in a row, the row's length is padded to a multiple for the GPU.
        """
        width = max(len(ids) for ids in token_ids)
        if n_before is not None:
            width += -(width + n_before) % self._multiple
        lengths = [len(ids) for ids in token_ids]
        mask = np.arange(width) < np.array(lengths)[:, None]
        padded = np.full(mask.shape, self.verbalizer.pad_id)
        padded[mask] = np.fromiter(chain.from_iterable(token_ids), np.int64, sum(lengths))
        device = str(self.device)
        return to_device(padded, device), to_device(mask.astype(np.int64), device)

    def _check_tokenizer(self) -> None:
        n_embeddings, verbalizer = self._embed.num_embeddings, self.verbalizer
        if verbalizer.vocabulary_size > n_embeddings:
            raise CheckpointError(
                f"{verbalizer.path}: {verbalizer.vocabulary_size} tokens, but the language model has {n_embeddings} "
                "embeddings; use the tokenizer.json that belongs to the weights"
            )


class _RecomputedBlock(nn.Module):
    """A block whose activations are recomputed in the backward pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self._block = block

    def forward(self, *arguments: Any, **options: Any) -> Any:
        # No dropout, hence no random state to preserve.
        return checkpoint(self._block, *arguments, use_reentrant=False, preserve_rng_state=False, **options)


Stack = TypeVar("Stack", bound=nn.Module)


def recomputing(stack: Stack, blocks: str) -> Stack:
    """Return a view of a stack with each block of its list `blocks` wrapped; the stack itself does not change."""
    view = copy.copy(stack)
    view._modules = {**stack._modules, blocks: nn.ModuleList(map(_RecomputedBlock, getattr(stack, blocks)))}
    return view
