from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from torch import nn
from transformers import Blip2ForConditionalGeneration
from transformers.utils import logging

from pipeline.models.answerer import Answerer
from pipeline.models.checkpoint import load_vision_encoder
from pipeline.models.config import read_blip2_config
from pipeline.models.localizer import Localizer
from pipeline.models.prompts import answer_prompt, localize_prompt, numbered_frame_prefixes, single_frame_prefixes
from pipeline.models.verbalizer import Verbalizer
from tests.tiny_blip2 import write_tiny_blip2

FILES = ("config.json", "model.safetensors", "tokenizer.json")


@pytest.fixture(scope="module")
def blip2(tiny: Path) -> Blip2ForConditionalGeneration:
    """The same directory loaded by transformers, with the exact gelu, which it does not read from the file."""
    logging.disable_progress_bar()
    model = Blip2ForConditionalGeneration.from_pretrained(tiny).eval()
    for module in model.language_model.modules():
        if hasattr(module, "act"):
            module.act = nn.GELU()
    return model


@torch.no_grad()
def test_localizer_computations_match_transformers(
    tiny: Path, blip2: Blip2ForConditionalGeneration, localizer: Localizer
) -> None:
    pixels = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    features = load_vision_encoder(read_blip2_config(tiny), tiny)(pixels)
    norm = blip2.vision_model.post_layernorm
    torch.testing.assert_close(norm(features), blip2.vision_model(pixels).last_hidden_state, rtol=0, atol=1e-5)
    norm.eps = 1e-5  # as in the official code
    queries = blip2.query_tokens.expand(3, -1, -1)
    queried = blip2.qformer(query_embeds=queries, encoder_hidden_states=norm(features)).last_hidden_state
    torch.testing.assert_close(localizer.prompt.query(features), queried, rtol=0, atol=1e-5)
    visual = blip2.language_projection(queried)
    torch.testing.assert_close(localizer.visual(features), visual, rtol=0, atol=1e-5)
    language = localizer.language
    token_ids = language.verbalizer.tokenize(["Question: yes", "no", "Option A B"]).token_ids
    inputs = language.assemble(single_frame_prefixes(), visual.unsqueeze(1), token_ids)
    logits = blip2.language_model(
        inputs_embeds=inputs.embeddings, attention_mask=inputs.mask, decoder_input_ids=language.decoder_ids(3)
    ).logits[:, 0]
    if blip2.config.text_config.scale_decoder_outputs:  # not saved: Flan-T5 never scales them
        logits = logits * blip2.config.text_config.d_model**0.5
    scores = localizer.score(visual, token_ids)
    torch.testing.assert_close(scores.logit_yes, logits[:, language.verbalizer.yes_id], rtol=0, atol=1e-5)
    torch.testing.assert_close(scores.logit_no, logits[:, language.verbalizer.no_id], rtol=0, atol=1e-5)


def test_the_seed_determines_every_byte_of_the_model(tiny: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        write_tiny_blip2(tmp_path / str(seed), seed)
    for name in FILES:
        assert (tmp_path / "0" / name).read_bytes() == (tiny / name).read_bytes()
    weights = "model.safetensors"
    assert (tmp_path / "1" / weights).read_bytes() != (tiny / weights).read_bytes()


def test_lm_head_is_stored_separately_from_the_embeddings(blip2: Blip2ForConditionalGeneration) -> None:
    text = blip2.language_model
    assert not torch.equal(text.lm_head.weight, text.shared.weight)


def test_query_tokens_differ_from_each_other(blip2: Blip2ForConditionalGeneration) -> None:
    assert len(blip2.query_tokens[0].unique(dim=0)) == blip2.config.num_query_tokens


def test_image_size_decides_the_size_of_the_features(tmp_path: Path) -> None:
    write_tiny_blip2(tmp_path, seed=0, image_size=56)
    config = read_blip2_config(tmp_path)
    assert (config.image_size, config.feature_shape) == (56, (17, 32))
    vision = load_vision_encoder(config, tmp_path)
    assert vision(torch.zeros(1, 3, 56, 56)).shape == (1, 17, 32)


def test_given_words_become_single_tokens(tmp_path: Path, tiny: Path) -> None:
    write_tiny_blip2(tmp_path, seed=0, words=["aardvark"])
    spelled, single = (Verbalizer(folder / "tokenizer.json").tokenize(["aardvark"]) for folder in (tiny, tmp_path))
    assert len(single.token_ids[0]) == 2  # and </s>
    assert len(spelled.token_ids[0]) > 2


@given(text=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_english_text_has_no_unknown_tokens(tokenizer_file: Path, text: str) -> None:
    assert "<unk>" not in Tokenizer.from_file(str(tokenizer_file)).encode(text).tokens


@pytest.fixture(scope="module")
def tokenizer_file(tiny: Path) -> Path:
    return tiny / "tokenizer.json"


@torch.no_grad()
def test_scores_and_answers_differ_between_frames_and_questions(
    tiny: Path, localizer: Localizer, answerer: Answerer
) -> None:
    generator = torch.Generator().manual_seed(0)
    features = load_vision_encoder(read_blip2_config(tiny), tiny)(torch.randn(8, 3, 28, 28, generator=generator))
    visual = localizer.visual(features)
    words = localizer.language.verbalizer
    options = ["the frame", "the question", "no"]
    token_ids = words.tokenize([localize_prompt(f"option {letter}?", options) for letter in "AB"]).token_ids
    by_question = [localizer.score(visual, [ids] * 8).logit_yes for ids in token_ids]
    assert all(scores.std() > 0.01 for scores in by_question)
    assert (by_question[0] - by_question[1]).abs().max() > 0.01
    questions = words.tokenize([answer_prompt(f"option {letter}?", options) for letter in "ABCD"]).token_ids
    output = answerer.answer(visual.view(4, 2, 4, 32), questions, [3] * 4, numbered_frame_prefixes(2))
    assert output.option_logits.std() > 0.01
