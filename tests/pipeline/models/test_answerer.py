from __future__ import annotations

import copy

import pytest
import torch

from cache.errors import CheckpointError
from pipeline.models.answerer import Answerer, AnswererOutput
from pipeline.models.language import Language
from pipeline.prompts import answer_prompt, numbered_frame_prefixes
from tests.reference import Reference


def asked(answerer: Answerer, rows: int, frames: int, n_options: list[int]) -> AnswererOutput:
    visual = torch.randn(rows, frames, 4, 32, generator=torch.Generator().manual_seed(frames))
    prompts = [answer_prompt(f"why {row}", ["yes", "no"]) for row in range(rows)]
    token_ids = answerer.language.verbalizer.tokenize(prompts).token_ids
    return answerer.answer(visual, token_ids, n_options, numbered_frame_prefixes(frames))


def first_frames(reference: Reference, k: int) -> tuple[torch.Tensor, list[list[int]]]:
    """The first K frames of each reference question's video, and the questions."""
    visual = reference.visual(reference.answerer)[reference.inputs["video_index"]][:, :k]
    return visual, reference.tokens("qa_input").token_ids


def test_letters_beyond_a_questions_options_are_minus_infinity_and_never_chosen(answerer: Answerer) -> None:
    found = asked(answerer, rows=4, frames=2, n_options=[2, 5, 3, 4])
    for logits in (found.option_logits, found.option_logits_forced):
        assert logits.shape == (4, 5)
        assert logits.isfinite().sum(dim=1).tolist() == [2, 5, 3, 4]
    assert (found.prediction < torch.tensor([2, 5, 3, 4])).all()


def test_question_with_more_options_than_letters_is_refused(answerer: Answerer) -> None:
    with pytest.raises(CheckpointError, match="27 options, but the tokenizer has single tokens for 26 letters"):
        asked(answerer, rows=1, frames=1, n_options=[27])


def test_answer_does_not_depend_on_what_else_is_in_the_batch(reference: Reference) -> None:
    visual, token_ids = first_frames(reference, 3)
    n_options, prefixes = [5] * len(token_ids), numbered_frame_prefixes(3)
    together = reference.answerer.answer(visual, token_ids, n_options, prefixes)
    for row in range(len(token_ids)):
        alone = reference.answerer.answer(visual[row : row + 1], token_ids[row : row + 1], [5], prefixes)
        torch.testing.assert_close(alone.option_logits[0], together.option_logits[row], rtol=0, atol=1e-5)
        assert alone.prediction[0] == together.prediction[row]


def reluctant(language: Language, visual: torch.Tensor, token_ids: list[list[int]]) -> Language:
    """A copy of `language` that begins with "Option" in half of the rows only: that word's logit is scaled down."""
    language = copy.copy(language)
    language.model = copy.deepcopy(language.model)
    option_id = language.verbalizer.option_id
    inputs = language.assemble(numbered_frame_prefixes(visual.shape[1]), visual, token_ids)
    logits = language.decode(language.encode(inputs), inputs.mask, language.decoder_ids(len(visual)))[:, 0]
    option = logits[:, option_id].clone()
    logits[:, option_id] = -torch.inf
    assert (option > 0).all()
    language.model.lm_head.weight[option_id] *= (logits.amax(dim=1) / option).median()
    return language


def test_rows_that_begin_with_another_token_are_answered_after_that_token(reference: Reference) -> None:
    visual, token_ids = first_frames(reference, 2)
    language = reluctant(reference.answerer.language, visual, token_ids)
    option_id, letters = language.verbalizer.option_id, list(language.verbalizer.letter_ids[:5])
    found = Answerer(reference.answerer.prompt, language).answer(visual, token_ids, [5] * 4, numbered_frame_prefixes(2))
    began_with_option = found.first_token_id == option_id
    assert 0 < began_with_option.sum() < len(token_ids)
    for row in range(len(token_ids)):  # one at a time, decoding step by step
        inputs = language.assemble(numbered_frame_prefixes(2), visual[row : row + 1], token_ids[row : row + 1])
        hidden = language.encode(inputs)
        first = language.decode(hidden, inputs.mask, language.decoder_ids(1))[0, 0].argmax().item()
        second = language.decode(hidden, inputs.mask, language.decoder_ids(1, first))[0, 1, letters]
        assert found.first_token_id[row] == first
        torch.testing.assert_close(found.option_logits[row], second, rtol=0, atol=1e-5)
        same = torch.allclose(found.option_logits[row], found.option_logits_forced[row], rtol=0, atol=1e-5)
        assert same == bool(began_with_option[row])
