"""The Shapes tokenizer: short sequences for the chain's own prompts, and what scoring needs in single tokens."""

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


def test_prompts_of_the_chain_are_a_dozen_pieces(verbalizer: Verbalizer) -> None:
    prompts = [answer_prompt("What comes after the red ring?", THINGS), moment_localize_prompt("A red ring stays.", ())]
    prompts += [localize_prompt("What colour is the ring?", ["red", "blue"], name) for name in LOCALIZE_INSTRUCTIONS]
    assert all(len(tokens(verbalizer, prompt)) <= 12 for prompt in prompts)


def test_a_letter_and_what_it_stands_for_are_one_piece(verbalizer: Verbalizer) -> None:
    found = tokens(verbalizer, answer_prompt("What comes after the red ring?", THINGS))
    assert found[4:9] == [
        f"▁Option▁{letter}:▁{thing.replace(' ', '▁')}" for letter, thing in zip("ABCDE", THINGS, strict=True)
    ]
    assert words_of(found[4]) == ["A", "red", "ring"]


def test_written_samples_have_the_ids_of_the_chains_own_prompts(verbalizer: Verbalizer) -> None:
    """The writer puts ids together piece by piece; the chain tokenises whole prompts."""
    writer, pieces = Writer(verbalizer, 0), verbalizer.pieces()
    for _ in range(100):
        for sample in (writer.question(4), writer.judgement()):
            text = "".join(pieces[id] for id in sample.text[:-1]).replace("▁", " ").strip()
            assert verbalizer.tokenize([text]).token_ids[0] == sample.text


def test_other_texts_are_spelled_without_unknown_tokens(verbalizer: Verbalizer) -> None:
    assert "<unk>" not in tokens(verbalizer, "Why did the chicken (1) cross the road?")
