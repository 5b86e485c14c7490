from __future__ import annotations

import copy
from unittest import mock

import pytest
import torch

from cache.errors import CheckpointError
from pipeline.models.answerer import Answerer, AnswererOutput
from pipeline.models.language import Language
from pipeline.models.prompts import answer_prompt, numbered_frame_prefixes, single_frame_prefixes
from tests.reference import Reference


def answer(answerer: Answerer, rows: int, frames: int, n_options: list[int]) -> AnswererOutput:
    visual = torch.randn(rows, frames, 4, 32, generator=torch.Generator().manual_seed(frames))
    prompts = [answer_prompt(f"why {row}", ["yes", "no"]) for row in range(rows)]
    token_ids = answerer.language.verbalizer.tokenize(prompts).token_ids
    return answerer.answer(visual, token_ids, n_options, numbered_frame_prefixes(frames))


def first_frames(reference: Reference, k: int) -> tuple[torch.Tensor, list[list[int]]]:
    """Return the first K frames of each reference question's video, and the questions."""
    visual = reference.visual(reference.answerer)[reference.inputs["video_index"]][:, :k]
    return visual, reference.tokens("qa_input").token_ids


def test_letters_beyond_the_options_are_minus_infinity_and_never_chosen(answerer: Answerer) -> None:
    output = answer(answerer, rows=4, frames=2, n_options=[2, 5, 3, 4])
    for logits in (output.option_logits, output.option_logits_forced):
        assert logits.shape == (4, 5)
        assert logits.isfinite().sum(dim=1).tolist() == [2, 5, 3, 4]
    assert (output.prediction < torch.tensor([2, 5, 3, 4])).all()


def test_a_question_with_more_options_than_letters_is_refused(answerer: Answerer) -> None:
    with pytest.raises(CheckpointError, match="27 options, but the tokenizer has single tokens for 26 letters"):
        answer(answerer, rows=1, frames=1, n_options=[27])


def test_an_answer_does_not_depend_on_the_batch(reference: Reference) -> None:
    visual, token_ids = first_frames(reference, 3)
    n_options, prefixes = [5] * len(token_ids), numbered_frame_prefixes(3)
    together = reference.answerer.answer(visual, token_ids, n_options, prefixes)
    for row in range(len(token_ids)):
        alone = reference.answerer.answer(visual[row : row + 1], token_ids[row : row + 1], [5], prefixes)
        torch.testing.assert_close(alone.option_logits[0], together.option_logits[row], rtol=0, atol=1e-5)
        assert alone.prediction[0] == together.prediction[row]


def half_without_option(language: Language, visual: torch.Tensor, token_ids: list[list[int]]) -> Language:
    """Return a copy of `language` with a smaller logit of "Option", so that only half of the rows start with it."""
    language = copy.copy(language)
    language.model = copy.deepcopy(language.model)
    option_id = language.verbalizer.option_id
    inputs = language.assemble(numbered_frame_prefixes(visual.shape[1]), visual, token_ids)
    logits = language.decode(language.encode(inputs), inputs.mask, language.decoder_ids(len(visual)))[:, 0]
    option = logits[:, option_id].clone()
    logits[:, option_id] = -torch.inf
    assert (option > 0).all()
    ratios = (logits.amax(dim=1) / option).sort().values
    middle = len(ratios) // 2
    factor = ratios[middle - 1 : middle + 1].mean()  # between two rows, as rounding decides ties
    language.model.lm_head.weight[option_id] *= factor
    return language


def test_rows_that_start_with_another_token_are_answered_after_it(reference: Reference) -> None:
    visual, token_ids = first_frames(reference, 2)
    language = half_without_option(reference.answerer.language, visual, token_ids)
    option_id, letters = language.verbalizer.option_id, list(language.verbalizer.letter_ids[:5])
    answerer = Answerer(reference.answerer.prompt, language)
    output = answerer.answer(visual, token_ids, [5] * 4, numbered_frame_prefixes(2))
    starts_with_option = output.first_token_id == option_id
    assert 0 < starts_with_option.sum() < len(token_ids)
    for row in range(len(token_ids)):  # one row at a time, one token at a time
        inputs = language.assemble(numbered_frame_prefixes(2), visual[row : row + 1], token_ids[row : row + 1])
        hidden = language.encode(inputs)
        first = language.decode(hidden, inputs.mask, language.decoder_ids(1))[0, 0].argmax().item()
        second = language.decode(hidden, inputs.mask, language.decoder_ids(1, first))[0, 1, letters]
        assert output.first_token_id[row] == first
        torch.testing.assert_close(output.option_logits[row], second, rtol=0, atol=1e-5)
        same = torch.allclose(output.option_logits[row], output.option_logits_forced[row], rtol=0, atol=1e-5)
        assert same == bool(starts_with_option[row])
    with mock.patch.object(language, "decode", wraps=language.decode) as decode:
        forced = answerer.answer(visual, token_ids, [5] * 4, numbered_frame_prefixes(2), only_forced=True)
    assert decode.call_count == 1, "rows were decoded again"
    assert torch.equal(forced.option_logits, output.option_logits_forced)


OPTIONS = [["a cat", "a cat on a mat", "7"], ["why", "yes", "no", "Option A", "the frame"], ["no", "no"]]


def text_scores(answerer: Answerer, rows: list[int], budget_tokens: int) -> torch.Tensor:
    """Return scores of rows of `OPTIONS` for prompts of different lengths and two frames each."""
    words = answerer.language.verbalizer
    visual = torch.randn(len(OPTIONS), 2, 4, 32, generator=torch.Generator().manual_seed(2))
    token_ids = words.tokenize([answer_prompt("why " * row, OPTIONS[row]) for row in range(len(OPTIONS))]).token_ids
    return answerer.option_text_scores(
        visual[rows],
        [token_ids[row] for row in rows],
        [words.tokenize(OPTIONS[row]).token_ids for row in rows],
        numbered_frame_prefixes(2),
        budget_tokens,
    )


def test_option_text_scores_match_the_cross_entropy_of_transformers(answerer: Answerer) -> None:
    scores = text_scores(answerer, [0, 1, 2], 100_000)
    language, words = answerer.language, answerer.language.verbalizer
    assert not language.model.config.scale_decoder_outputs  # otherwise its forward would scale the logits
    visual = torch.randn(len(OPTIONS), 2, 4, 32, generator=torch.Generator().manual_seed(2))
    for row, options in enumerate(OPTIONS):
        token_ids = words.tokenize([answer_prompt("why " * row, options)]).token_ids
        inputs = language.assemble(numbered_frame_prefixes(2), visual[row : row + 1], token_ids)
        for option, ids in enumerate(words.tokenize(options).token_ids):
            assert ids[-1] == words.end_id
            out = language.model(
                inputs_embeds=inputs.embeddings, attention_mask=inputs.mask, labels=torch.tensor([ids])
            )
            torch.testing.assert_close(scores[row, option], -out.loss * len(ids), rtol=0, atol=1e-5)


def test_option_text_scores_do_not_depend_on_the_batch(answerer: Answerer) -> None:
    together = text_scores(answerer, [0, 1, 2], 100_000)
    assert together.shape == (3, 5) and together.dtype == torch.float32
    assert together.isfinite().sum(dim=1).tolist() == [3, 5, 2] and (together[0, 3:] == -torch.inf).all()
    torch.testing.assert_close(text_scores(answerer, [0, 1, 2], 1), together, rtol=0, atol=1e-5)
    for row, options in enumerate(OPTIONS):
        alone = text_scores(answerer, [row], 200)
        torch.testing.assert_close(alone[0], together[row, : len(options)], rtol=0, atol=1e-5)
    assert together[2, 0] == together[2, 1] and together[2].argmax() == 0  # the first of equal options


def test_option_texts_can_outnumber_the_letters(answerer: Answerer) -> None:
    options = [f"{number}" for number in range(30)]
    words = answerer.language.verbalizer
    scores = answerer.option_text_scores(
        torch.zeros(1, 1, 4, 32),
        words.tokenize([answer_prompt("which", options)]).token_ids,
        [words.tokenize(options).token_ids],
        single_frame_prefixes(),
        1000,
    )
    assert scores.shape == (1, 30) and (scores < 0).all()
