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


def asked_about(question_id: str, options: Sequence[str]) -> Question:
    return Question(question_id, "video", "which?", tuple(options), None, "", None, None)


def test_more_options_than_letters_are_refused_for_letters_only(answerer: Answerer) -> None:
    question = asked_about("1", OPTIONS)
    assert reader(answerer, "letter").refusal(question).startswith("too_many_options: ")
    texts = reader(answerer, "text_per_token")
    assert texts.refusal(question) == ""
    asked = texts.prepare([question])
    said = texts.ask(torch.zeros(1, 1, 4, 32), asked, single_frame_prefixes())
    (found,) = texts.values(said.numpy(), asked)
    assert found.values.shape == (28,) and found.first_token_id is None


@pytest.mark.parametrize("readout", ["letter", "text", "text_per_token"])
def test_values_that_are_not_finite_are_the_problem_of_their_question_alone(
    answerer: Answerer, readout: Readout
) -> None:
    question = asked_about("dog#7", OPTIONS[:3])
    asking = reader(answerer, readout)
    visual = torch.zeros(2, 1, 4, 32)
    visual[1] = np.nan
    asked = asking.prepare([question] * 2)
    good, bad = asking.values(asking.ask(visual, asked, single_frame_prefixes()).numpy(), asked)
    assert good.problem_of() == "" and bad.problem_of().startswith("not_finite_answers: the Answerer gave [nan")
