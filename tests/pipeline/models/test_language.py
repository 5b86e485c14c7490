from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cache.errors import CheckpointError
from pipeline.models.checkpoint import load_language
from pipeline.models.config import read_blip2_config
from pipeline.models.language import Language
from pipeline.models.prompts import numbered_frame_prefixes, single_frame_prefixes
from pipeline.models.verbalizer import Verbalizer
from tests.reference import PARITY

TEXTS = ["yes", "Question: does the frame provide the details?", "Option A B C D E"]


def logits_of(language: Language, texts: list[str], visual: torch.Tensor) -> torch.Tensor:
    """Logits [R, 2, V] after the start token and "Option"."""
    token_ids = language.verbalizer.tokenize(texts).token_ids
    inputs = language.assemble(numbered_frame_prefixes(visual.shape[1]), visual, token_ids)
    decoder_ids = language.decoder_ids(len(texts), language.verbalizer.option_id)
    return language.decode(language.encode(inputs), inputs.mask, decoder_ids)


def random_visual(language: Language, rows: int, frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows * 100 + frames)
    return torch.randn(rows, frames, 4, language.model.config.d_model, generator=generator)


def test_the_logits_of_a_row_do_not_depend_on_the_batch(language: Language) -> None:
    visual = random_visual(language, len(TEXTS), 3)
    together = logits_of(language, TEXTS, visual)
    for row, text in enumerate(TEXTS):
        torch.testing.assert_close(
            logits_of(language, [text], visual[row : row + 1])[0], together[row], rtol=0, atol=1e-5
        )


def test_padding_inside_a_short_frame_prefix_stays_in_place_and_is_masked(language: Language) -> None:
    visual = random_visual(language, 1, 10)
    prefixes = numbered_frame_prefixes(10)
    *short, longest = [len(ids) for ids in language.verbalizer.tokenize_prefixes(prefixes)]
    assert set(short) == {longest - 1}  # "Frame 10: " is the longest
    inputs = language.assemble(prefixes, visual, [[language.verbalizer.end_id]])
    frame_masks = inputs.mask[0, :-1].view(10, longest + 4)
    assert frame_masks[:9, longest - 1].tolist() == [0] * 9
    assert frame_masks.sum().item() == 10 * (longest + 4) - 9
    pad = language.model.shared(torch.tensor(language.verbalizer.pad_id))
    torch.testing.assert_close(inputs.embeddings[0, longest - 1], pad)


@pytest.mark.parametrize("steps", [1, 2])
def test_folded_keys_and_values_give_the_logits_of_the_decoder(language: Language, steps: int) -> None:
    visual = random_visual(language, rows=3, frames=2)
    words = language.verbalizer.tokenize(["a", "a longer question?", "yes"]).token_ids
    inputs = language.assemble(["Frame 1: ", "Frame 10: "], visual, words)
    decoder_ids = language.decoder_ids(3, *[5] * (steps - 1))
    with torch.no_grad():
        hidden = language.encode(inputs)
        folded = language.decode(hidden, inputs.mask, decoder_ids)
    with torch.enable_grad():  # nothing is folded while gradients are enabled
        unfolded = language.decode(hidden, inputs.mask, decoder_ids)
    torch.testing.assert_close(folded, unfolded, rtol=0, atol=5e-5)
    assert not torch.equal(folded, unfolded), "nothing was folded"


def test_lm_head_is_not_tied_to_the_embeddings(language: Language) -> None:
    assert not torch.equal(language.model.lm_head.weight, language.model.shared.weight)
    assert language.model.encoder.embed_tokens is language.model.shared
    assert language.model.decoder.embed_tokens is language.model.shared


def test_the_activation_is_the_exact_gelu(language: Language) -> None:
    activation = language.model.encoder.block[0].layer[-1].DenseReluDense.act
    # Phi(1) = 0.8413447; the approximation gives 0.8411920
    assert activation(torch.tensor(1.0)).item() == pytest.approx(0.8413447, abs=1e-6)


def test_a_frozen_language_model_passes_gradients_to_the_visual_tokens(language: Language) -> None:
    visual = random_visual(language, 2, 1).requires_grad_()
    logits_of(language, TEXTS[:2], visual).sum().backward()
    assert not any(parameter.requires_grad for parameter in language.model.parameters())
    assert not any(module.training for module in language.model.modules())
    assert visual.grad is not None and visual.grad.abs().sum() > 0


def test_bfloat16_keeps_lm_head_and_logits_in_float32(tiny: Path, language: Language) -> None:
    reduced = load_language(read_blip2_config(tiny), tiny, language.verbalizer, torch.bfloat16)
    assert reduced.dtype == torch.bfloat16
    torch.testing.assert_close(reduced.model.lm_head.weight, language.model.lm_head.weight, rtol=0, atol=0)
    visual = random_visual(language, len(TEXTS), 2)
    output, expected = logits_of(reduced, TEXTS, visual), logits_of(language, TEXTS, visual)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, expected, rtol=0, atol=0.05 * expected.abs().max().item())


def test_float16_is_refused(tiny: Path, language: Language) -> None:
    with pytest.raises(CheckpointError, match="Flan-T5 cannot run in float16; choose one of float32, bfloat16"):
        load_language(read_blip2_config(tiny), tiny, language.verbalizer, torch.float16)


def test_tokenizer_of_a_larger_model_is_refused(tiny: Path) -> None:
    other = Verbalizer(PARITY / "tokenizer.json")
    assert other.vocabulary_size > read_blip2_config(tiny).text.vocab_size
    with pytest.raises(CheckpointError, match="tokens, but the language model has"):
        load_language(read_blip2_config(tiny), tiny, other)


def test_visual_tokens_of_any_float_dtype_are_accepted(language: Language) -> None:
    visual = random_visual(language, 1, 1).half()
    inputs = language.assemble(single_frame_prefixes(), visual, [[language.verbalizer.end_id]])
    assert inputs.embeddings.dtype == language.dtype
