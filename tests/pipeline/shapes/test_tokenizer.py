"""The Shapes tokenizer: prompts of the chain are short sequences, and option letters are single tokens."""

from __future__ import annotations

import pytest

from pipeline.models.prompts import LOCALIZE_INSTRUCTIONS, answer_prompt, localize_prompt, moment_localize_prompt
from pipeline.models.verbalizer import Verbalizer
from pipeline.shapes.tokenizer import words_of, write_tokenizer
from pipeline.shapes.world import N_OPTIONS
from pipeline.shapes.writing import Writer

THINGS = ("a red ring", "a blue moon", "a pink bar", "a white cross", "a cyan dot")


@pytest.fixture(scope="module")
def verbalizer(tmp_path_factory: pytest.TempPathFactory) -> Verbalizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    write_tokenizer(path)
    return Verbalizer(path, required_letters=N_OPTIONS)


def tokens(verbalizer: Verbalizer, text: str) -> list[str]:
    pieces = verbalizer.pieces()
    return [pieces[id] for id in verbalizer.tokenize([text]).token_ids[0]]


def test_prompts_of_the_chain_have_at_most_twelve_tokens(verbalizer: Verbalizer) -> None:
    prompts = [answer_prompt("What comes after the red ring?", THINGS), moment_localize_prompt("A red ring stays.", ())]
    prompts += [localize_prompt("What colour is the ring?", ["red", "blue"], name) for name in LOCALIZE_INSTRUCTIONS]
    assert all(len(tokens(verbalizer, prompt)) <= 12 for prompt in prompts)


def test_an_option_letter_and_its_text_are_one_token(verbalizer: Verbalizer) -> None:
    pieces = tokens(verbalizer, answer_prompt("What comes after the red ring?", THINGS))
    assert pieces[4:9] == [
        f"▁Option▁{letter}:▁{thing.replace(' ', '▁')}" for letter, thing in zip("ABCDE", THINGS, strict=True)
    ]
    assert words_of(pieces[4]) == ["A", "red", "ring"]


def test_training_samples_have_the_token_ids_of_the_chains_prompts(verbalizer: Verbalizer) -> None:
    """The writer joins ids token by token; the chain tokenises whole prompts."""
    writer, pieces = Writer(verbalizer, 0), verbalizer.pieces()
    for _ in range(100):
        for sample in (writer.question(4), writer.judgement()):
            text = "".join(pieces[id] for id in sample.text[:-1]).replace("▁", " ").strip()
            assert verbalizer.tokenize([text]).token_ids[0] == sample.text


def test_other_texts_have_no_unknown_tokens(verbalizer: Verbalizer) -> None:
    assert "<unk>" not in tokens(verbalizer, "Why did the chicken (1) cross the road?")
