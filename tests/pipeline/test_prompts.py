"""Prompts byte for byte: wordings of the ablation from paper table 16, the others also checked by test_parity."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.prompts import (
    LOCALIZE_INSTRUCTIONS,
    PROMPT_STYLES,
    answer_prompt,
    answer_target,
    localize_prompt,
    next_event_localize_prompt,
    numbered_frame_prefixes,
    single_frame_prefixes,
)

TEXTS = st.text(min_size=1, max_size=20)


def test_the_answer_prompt_letters_each_option() -> None:
    assert answer_prompt("why is it wet?", ["rain.", "sweat."]) == (
        "Question: why is it wet? Option A: rain. Option B: sweat. "
        "Considering the information presented in the frame, select the correct answer from the options."
    )


def test_the_localize_prompt_has_one_space_before_the_closing_bracket() -> None:
    assert localize_prompt("why is it wet?", ["rain.", "sweat."]) == (
        "Question: why is it wet? Options: (rain. sweat. ) "
        "Does the information within the frame provide the necessary details to accurately answer the given question?"
    )


@pytest.mark.parametrize(
    ("name", "instruction"),
    [
        ("information_needed", "Does the frame have the information needed to answer the question correctly?"),
        (
            "necessary_information",
            "Does the provided frame contain the necessary information to accurately answer the given question?",
        ),
    ],
)
def test_a_wording_of_the_ablation_replaces_only_the_instruction(name: str, instruction: str) -> None:
    default = localize_prompt("q", ["a", "b"])
    assert localize_prompt("q", ["a", "b"], name) == default.replace(
        LOCALIZE_INSTRUCTIONS["necessary_details"], instruction
    )
    assert next_event_localize_prompt("", ["a", "b"], name).endswith(f"Option B: b {instruction}")


@pytest.mark.parametrize(("query", "expected"), [("a dog runs", "a dog runs."), ("a dog runs.", "a dog runs.")])
def test_a_moment_query_ends_in_one_full_stop(query: str, expected: str) -> None:
    text = PROMPT_STYLES["moment"].localize(query, ["yes", "no"], "necessary_details")
    assert text.startswith(f"Question: {expected} Option A: yes. Option B: no. Does")


def test_frame_prefixes_are_numbered_from_one_and_end_in_a_space() -> None:
    assert numbered_frame_prefixes(3) == ["Frame 1: ", "Frame 2: ", "Frame 3: "]
    assert single_frame_prefixes() == ["Frame: "]


@given(question=TEXTS, options=st.lists(TEXTS, min_size=2, max_size=26))
def test_prompts_contain_question_and_options_unchanged_and_in_order(question: str, options: list[str]) -> None:
    answering, localizing = answer_prompt(question, options), localize_prompt(question, options)
    assert answering.startswith(f"Question: {question} Option A: {options[0]}")
    assert f" {answer_target(len(options) - 1)}: {options[-1]} Considering" in answering
    assert localizing.startswith(f"Question: {question} Options: ({' '.join(options)} ) ")
