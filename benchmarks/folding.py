"""CPU seconds of T5's encoder, and of its decoder with and without folding: `OMP_NUM_THREADS=1 python -m benchmarks.folding`.

Random weights in the shape of Flan-T5-base, 64 rows of 72 tokens, the length of a Localizer's prompt for one frame; a
vocabulary of 2,000, as the benchmark excludes the `lm_head`. Writes `folding.json` to OUT, by default the current folder.
"""

import time
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from transformers import T5Config, T5ForConditionalGeneration

from benchmarks.report import show
from benchmarks.timing import medians_by_turns
from pipeline.models import t5_language
from pipeline.models.language import LanguageInput
from pipeline.models.t5_language import T5Language

ROWS, TOKENS, REPETITIONS = 64, 72, 5
SHAPE: dict[str, Any] = {
    **{"vocab_size": 2000, "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
    **{"feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0, "tie_word_embeddings": False},
}


def random_language(dtype: str) -> T5Language:
    """Return a T5 of `SHAPE` in a dtype of torch, with the same random weights in each call."""
    torch.manual_seed(0)
    verbalizer: Any = SimpleNamespace(pad_id=0, end_id=1, vocabulary_size=SHAPE["vocab_size"], path="")
    config = T5Config(**SHAPE)
    config.dense_act_fn = "gelu"  # as models are loaded; T5Config has the slower gelu_new for every gated-gelu
    return T5Language(T5ForConditionalGeneration(config).to(getattr(torch, dtype)), verbalizer)


def decoded(language: T5Language, steps: int, *inputs: torch.Tensor) -> torch.Tensor:
    """Return the logits of a decoder that folds up to `steps` steps."""
    with mock.patch.object(t5_language, "FOLDED_STEPS", steps):
        return language.decode(*inputs)


@torch.no_grad()
def main() -> None:
    """Print a table, from runs with and without folding in turns."""
    language = random_language("float32")
    hidden, mask = torch.randn(ROWS, TOKENS, SHAPE["d_model"]), torch.ones(ROWS, TOKENS, dtype=torch.int64)
    lines = [["decoder tokens", "encoder s", "decoder s", "folded s", "largest relative difference"]]
    encode = {"encoder": lambda: language.encode(LanguageInput(hidden, mask))}
    encoder = medians_by_turns(encode, 3, time.process_time)["encoder"]
    for n_tokens in (1, 2):
        ids = torch.zeros(ROWS, n_tokens, dtype=torch.int64)
        variants = {str(steps): partial(decoded, language, steps, hidden, mask, ids) for steps in (0, n_tokens)}
        medians = medians_by_turns(variants, REPETITIONS, time.process_time)
        unfolded, folded = (decode() for decode in variants.values())
        difference = float((unfolded - folded).abs().max() / unfolded.abs().max())
        cells = [f"{seconds:.2f}" for seconds in (encoder, *medians.values())]
        lines.append([str(n_tokens), *cells, f"{difference:.1e}"])
    show("folding", lines)


if __name__ == "__main__":
    main()
