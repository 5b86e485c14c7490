"""Reading a value per option from the Answerer, by letter or by text."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from pipeline.datasets.question import Question
from pipeline.inference.option_reader import OptionReader, Readout
from pipeline.models.answerer import Answerer
from pipeline.models.checkpoint import load_language, load_visual_prompt
from pipeline.models.config import read_blip2_config
from pipeline.models.prompts import single_frame_prefixes
from pipeline.models.verbalizer import Verbalizer
from tests.tiny_blip2 import write_tiny_blip2

OPTIONS = [f"thing {number}" for number in range(28)]


@pytest.fixture(scope="module")
def answerer(tmp_path_factory: pytest.TempPathFactory) -> Answerer:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_blip2(folder, seed=0)
    config = read_blip2_config(folder)
    language = load_language(config, folder, Verbalizer(folder / "tokenizer.json"))
    return Answerer(load_visual_prompt(config, folder, "blip2"), language)


def reader(answerer: Answerer, readout: Readout) -> OptionReader:
    return OptionReader(answerer, "multiple_choice", readout, batch_tokens=500, forced=False)


def make_question(question_id: str, options: Sequence[str]) -> Question:
    return Question(question_id, "video", "which?", tuple(options), None, "", None, None)


def test_only_the_letter_readout_refuses_more_options_than_letters(answerer: Answerer) -> None:
    question = make_question("1", OPTIONS)
    assert reader(answerer, "letter").refusal(question).startswith("too_many_options: ")
    text_reader = reader(answerer, "text_per_token")
    assert text_reader.refusal(question) == ""
    prepared = text_reader.prepare([question])
    logits = text_reader.ask(torch.zeros(1, 1, 4, 32), prepared, single_frame_prefixes())
    (readings,) = text_reader.values(logits.numpy(), prepared)
    assert readings.values.shape == (28,) and readings.first_token_id is None


@pytest.mark.parametrize("readout", ["letter", "text", "text_per_token"])
def test_non_finite_values_are_a_problem_of_their_question_only(answerer: Answerer, readout: Readout) -> None:
    question = make_question("dog#7", OPTIONS[:3])
    option_reader = reader(answerer, readout)
    visual = torch.zeros(2, 1, 4, 32)
    visual[1] = np.nan
    prepared = option_reader.prepare([question] * 2)
    good, bad = option_reader.values(option_reader.ask(visual, prepared, single_frame_prefixes()).numpy(), prepared)
    assert good.problem_of() == "" and bad.problem_of().startswith("not_finite_answers: the Answerer gave [nan")
