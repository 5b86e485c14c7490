"""The frozen Flan-T5 that both models ask: pieces of text and visual tokens in, logits of the first decoded tokens out.

Shapes: R rows (one question each), K frames a row, Q query tokens, D language width, W tokens of a frame prefix,
N tokens of the longest text, S = K * (W + Q) + N, M decoder steps = tokens of the longest target, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5LayerNorm, T5Stack

from cache.errors import CheckpointError
from pipeline.models.transfer import to_device
from pipeline.models.verbalizer import Verbalizer

# Of tokens in a row, on a GPU: its fused attention takes biases of such widths only, what it takes instead is far slower.
MULTIPLE = 8


class EncoderInput(NamedTuple):
    """The input of T5's encoder: embeddings [R, S, D] in the model's dtype and mask [R, S] int64 (0: padding)."""

    embeddings: Tensor
    mask: Tensor


class Language:
    """A frozen T5 with its verbalizer; shared by Localizer and Answerer, which train nothing of it.

    Encoder, decoder and `lm_head` are called one by one: `T5ForConditionalGeneration.forward` may scale the decoder's
    output or tie `lm_head` to the embeddings depending on a configuration flag, and Flan-T5 wants neither.
    Gradients flow through to the visual tokens; callers that only infer use `torch.no_grad`.
    """

    def __init__(self, model: T5ForConditionalGeneration, verbalizer: Verbalizer) -> None:
        """Take over `model`: freeze it, switch dropout off, and put `lm_head` in float32.

        Logits in bfloat16 have 8 significant bits: frames with different scores would tie.

        Raises:
            CheckpointError: the tokenizer knows more tokens than the model, or they disagree on padding or end.
        """
        _check_agreement(model, verbalizer)
        self.model = model.eval().requires_grad_(False)
        self.model.lm_head.float()
        self._multiple = 1
        if self.device.type != "cpu":
            _fuse_norms(self.model)
            self._multiple = MULTIPLE
            # cuDNN builds a plan for every new shape, half a second for each direction, and most batches have one of their own.
            torch.backends.cuda.enable_cudnn_sdp(False)
        self.encoder, self.decoder = self.model.encoder, self.model.decoder
        self.verbalizer = verbalizer
        start_id = model.config.decoder_start_token_id
        self.start_id: int = verbalizer.pad_id if start_id is None else start_id

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of embeddings and hidden states."""
        return self.model.shared.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the model lies and its inputs are put."""
        return self.model.shared.weight.device

    def assemble(self, prefixes: Sequence[str], visual: Tensor, token_ids: Sequence[Sequence[int]]) -> EncoderInput:
        """Return `[prefix 1][frame 1] ... [prefix K][frame K][text]` as embeddings and mask.

        Prefixes are padded to the longest where they stand ("Frame 10: " is longer than "Frame 1: "), and texts at the
        end; both pads are masked, but T5's relative positions count the first (official `sevila.py`, forward).

        Args:
            prefixes: K texts, the same for all rows.
            visual: [R, K, Q, D], any float dtype.
            token_ids: R texts as ids including `</s>`.
        """
        rows, frames = visual.shape[:2]
        assert len(prefixes) == frames and len(token_ids) == rows, (len(prefixes), visual.shape, len(token_ids))
        prefix_ids, prefix_mask = self._padded(self.verbalizer.tokenize_prefixes(prefixes))  # [K, W]
        before_text = frames * (prefix_ids.shape[1] + visual.shape[2])
        text_ids, text_mask = self._padded(token_ids, before_text)  # [R, N]
        prefix = self.model.shared(prefix_ids).expand(rows, -1, -1, -1)  # [R, K, W, D]
        seen = torch.cat([prefix, visual.to(self.device, self.dtype)], dim=2).flatten(1, 2)  # [R, K * (W + Q), D]
        visual_mask = prefix_mask.new_ones(frames, visual.shape[2])
        seen_mask = torch.cat([prefix_mask, visual_mask], dim=1).flatten().expand(rows, -1)
        return EncoderInput(
            torch.cat([seen, self.model.shared(text_ids)], dim=1), torch.cat([seen_mask, text_mask], dim=1)
        )

    def text_only(self, token_ids: Sequence[Sequence[int]]) -> EncoderInput:
        """Return R texts, given as ids including `</s>`, as embeddings and mask: no frame stands before them."""
        text_ids, mask = self._padded(token_ids, 0)
        return EncoderInput(self.model.shared(text_ids), mask)

    def encode(self, inputs: EncoderInput) -> Tensor:
        """Return the encoder's hidden states [R, S, D].

        Block by block, as transformers does, but for the attention's bias: it is the same in all blocks, and is put together
        with the mask once, [R, heads, S, S].
        """
        n_tokens = inputs.mask.shape[1]
        with self._as_loaded():
            bias = (
                self.model.encoder.block[0].layer[0].SelfAttention.compute_bias(n_tokens, n_tokens, device=self.device)
            )
            bias = bias.masked_fill(inputs.mask[:, None, None] == 0, torch.finfo(bias.dtype).min).contiguous()
            hidden = inputs.embeddings
            for block in self.encoder.block:
                hidden = block(hidden, position_bias=bias)[0]
            states: Tensor = self.encoder.final_layer_norm(hidden)
            return states

    def decode(self, hidden: Tensor, mask: Tensor, decoder_ids: Tensor) -> Tensor:
        """Return logits [R, M, V] float32 of what follows each of `decoder_ids` [R, M], which begin with `start_id`."""
        # With four axes: to see whether a mask of two axes hides anything, transformers waits for the device.
        seen = mask[:, None, None].bool()
        with self._as_loaded():
            states = self.decoder(
                input_ids=decoder_ids, encoder_hidden_states=hidden, encoder_attention_mask=seen, use_cache=False
            ).last_hidden_state
            return functional.linear(states.float(), self.model.lm_head.weight)

    def log_likelihood(self, hidden: Tensor, mask: Tensor, target_ids: Sequence[Sequence[int]]) -> Tensor:
        """Return how likely each row's target text is, [R] float32: the sum of its tokens' log-probabilities; differentiable.

        Losses are its negative, summed: parts of a batch add up to the whole, however it was cut. The official loss is the
        sum over a batch divided by the number of its target tokens.

        Args:
            hidden: [R, S, D], the encoder's states of what was read.
            mask: [R, S].
            target_ids: R texts as ids including `</s>`, whose probability counts: else "a cat" would always be at least as
                likely as "a cat on a mat".
        """
        targets, target_mask = self._padded(target_ids)  # [R, M]
        start = torch.full_like(targets[:, :1], self.start_id)
        logits = self.decode(hidden, mask, torch.cat([start, targets[:, :-1]], dim=1))
        of_targets = logits.log_softmax(dim=-1).gather(2, targets.unsqueeze(2)).squeeze(2)
        return of_targets.masked_fill(target_mask == 0, 0.0).sum(dim=1)

    def saving_memory(self) -> Language:
        """Return the same model, which keeps only what stands between T5's blocks for the backward pass and recomputes the rest.

        transformers' own switch acts on models in training mode only, in which dropout would be on. Block by block: around
        the encoder as a whole nothing would be saved, because its backward pass would hold all blocks at once.
        """
        saving = copy.copy(self)
        saving.encoder, saving.decoder = _recomputing(self.model.encoder), _recomputing(self.model.decoder)
        return saving

    def decoder_ids(self, rows: int, *after_start: int) -> Tensor:
        """Return [rows, 1 + len(after_start)] int64: the start token, then the given ones, in every row."""
        return self.on_device([[self.start_id, *after_start]]).expand(rows, -1)

    def on_device(self, numbers: Any) -> Tensor:
        """Return (nested) lists of numbers as a tensor where the model is, without waiting for what it is at."""
        return to_device(np.array(numbers), str(self.device))

    def _as_loaded(self) -> torch.autocast:
        """Compute in the dtypes of the weights, float32 logits included, whatever a training casts around it."""
        return torch.autocast(self.device.type, enabled=False)

    def _padded(self, token_ids: Sequence[Sequence[int]], n_before: int | None = None) -> tuple[Tensor, Tensor]:
        """Return ids and mask [R, N] int64; where they end rows that have `n_before` tokens before, N pads these for a GPU."""
        width = max(len(ids) for ids in token_ids)
        if n_before is not None:
            width += -(width + n_before) % self._multiple
        lengths = [len(ids) for ids in token_ids]
        mask = np.arange(width) < np.array(lengths)[:, None]
        padded = np.full(mask.shape, self.verbalizer.pad_id)
        padded[mask] = np.fromiter(chain.from_iterable(token_ids), np.int64, sum(lengths))
        device = str(self.device)
        return to_device(padded, device), to_device(mask.astype(np.int64), device)


class _RecomputedBlock(nn.Module):
    """A block of T5 whose activations are computed again in the backward pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self._block = block

    def forward(self, *arguments: Any, **options: Any) -> Any:
        # No dropout, hence no random state to preserve.
        return checkpoint(self._block, *arguments, use_reentrant=False, preserve_rng_state=False, **options)


def _recomputing(stack: T5Stack) -> T5Stack:
    """Return a view of an encoder or decoder with each block wrapped; the stack itself and its weights stay as they are."""
    view = copy.copy(stack)
    view._modules = {**stack._modules, "block": nn.ModuleList(map(_RecomputedBlock, stack.block))}
    return view


def _fuse_norms(model: T5ForConditionalGeneration) -> None:
    """Put torch's own norm, one kernel, in the place of each T5LayerNorm, five; in float32 they differ in the last bits."""
    for module in list(model.modules()):
        for name, norm in module.named_children():
            if isinstance(norm, T5LayerNorm):
                fused = nn.RMSNorm(norm.weight.shape, norm.variance_epsilon, device="meta")
                fused.weight = norm.weight
                setattr(module, name, fused)


def _check_agreement(model: T5ForConditionalGeneration, verbalizer: Verbalizer) -> None:
    rows = model.shared.num_embeddings
    if verbalizer.vocabulary_size > rows:
        raise CheckpointError(
            f"{verbalizer.path}: {verbalizer.vocabulary_size} tokens, but the language model has {rows} embeddings; "
            "use the tokenizer.json that belongs to the weights"
        )
    for name, token_id in (("pad_token_id", verbalizer.pad_id), ("eos_token_id", verbalizer.end_id)):
        wanted = getattr(model.config, name)
        if token_id != wanted:
            raise CheckpointError(
                f"{verbalizer.path}: its {name} is {token_id}, but the language model's is {wanted}; "
                "use the tokenizer.json that belongs to the weights"
            )
