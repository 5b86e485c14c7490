"""Parsing the option that a model's reply names."""

import pytest

from pipeline.option_letters import option_lines, parse_option

OPTIONS = ["a red ball", "A man is walking", "vitamin C", "two"]


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        *(
            ("A", "A"),
            ("b", "B"),
            ("(C)", "C"),
            ("D.", "D"),
            ("**B**", "B"),
            ("a. ", "A"),
            ("D) two", "D"),
            ("`C`", "C"),
        ),
        *(("Answer: C", "C"), ("The answer is B.", "B"), ("The correct answer is (D) two", "D"), ("Option B", "B")),
        *(("The best answer is: A", "A"), ("Best option: (A) a red ball", "A"), ("B: A man is walking", "B")),
        ("Looking at it, the man jumps. The answer is B.", "B"),
        ("A\nBecause the ball is red", "A"),
        *(("A man is walking", "B"), ("two", "D"), ("Two.", "D"), ("C. vitamin C", "C")),
        ("<think>maybe A. or C</think>\nB", "B"),
    ],
)
def test_a_reply_that_names_one_option_gives_that_option(reply: str, letter: str) -> None:
    number = parse_option(reply, OPTIONS)
    assert number is not None and "ABCD"[number] == letter


@pytest.mark.parametrize(
    "reply",
    [
        *(
            "",
            " ",
            "E",
            "ABCD",
            "A B C D",
            "A.B",
            "A, B",
            "A or B",
            "A and B",
            "red",
            "assistant",
            "answer",
            "I",
            "I think so",
        ),
        *("A man is running", "answer is A man", "a man", "B, or maybe C", "I'd say (B)", "Not A. B", "\ufffd\x00"),
        *("Option A is wrong, option B is right", "The answer is not A", "The answer isn't A."),
        *("the answer: A. No wait, the answer is B.", "A. The man takes vitamin C."),
        "<think>The answer is B.</think>",
    ],
)
def test_an_ambiguous_reply_gives_no_option(reply: str) -> None:
    assert parse_option(reply, OPTIONS) is None


def test_options_that_are_letters_or_equal_are_named_only_by_their_own_letter() -> None:
    assert parse_option("B", ["C", "B", "A"]) == 1
    assert parse_option("same", ["same", "Same."]) is None
    assert parse_option("3", ["1", "2", "3"]) == 2
    assert option_lines(["x", "y"]) == "A. x\nB. y"
