"""The options of a row and which of them is right, in the ways that data sets write them."""

import re
from collections.abc import Sequence
from typing import Any

from pipeline.datasets.values import BadRow, exact_text, text
from pipeline.option_letters import OPTION_LETTERS

LABEL = re.compile(r"\(?([A-Z])[.):]\s*", re.IGNORECASE)  # "A. ", "A) ", "(A) ", "A: "


def options_of(what: str, values: Any) -> tuple[str, ...]:
    """The texts of a list of options, without the letter that each may carry ("A. Apples."): prompts add their own.

    Letters are taken off once, and only if every option begins with its own: "A. Milne" beside "Poe" is a name. Raises BadRow,
    also for options that carry each other's letters, which leave open which one is right.
    """
    if not isinstance(values, list) or not 2 <= len(values) <= len(OPTION_LETTERS):
        count = f"{len(values)} options" if isinstance(values, list) else "no list of options"
        raise BadRow(f"{what}: {count}, 2 to {len(OPTION_LETTERS)} were wanted")
    texts = tuple(text(f"{what} {position}", value) for position, value in enumerate(values))
    labels = [label for label in map(LABEL.match, texts) if label]
    letters, wanted = [label[1].upper() for label in labels], list(OPTION_LETTERS[: len(texts)])
    if letters == wanted:
        return tuple(text(f"{what} {label[1]}", label.string[label.end() :]) for label in labels)
    if sorted(letters) == wanted:
        raise BadRow(f"{what} carry the letters {', '.join(letters)}, {', '.join(wanted)} were wanted")
    return texts


def of_letter(value: Any, n_options: int) -> int | None:
    """The position of the option that a letter means ("C", "(C)"); None for no value. Raises BadRow."""
    given = text("answer", value, "")
    if not given:
        return None
    letter = given.strip("().:").upper()
    if len(letter) != 1 or letter not in OPTION_LETTERS[:n_options]:
        raise BadRow(f"answer is {value!r}, a letter from A to {OPTION_LETTERS[n_options - 1]} was wanted")
    return OPTION_LETTERS.index(letter)


def of_text(value: Any, options: Sequence[str]) -> int | None:
    """The position of the option with this text; None for no value. Raises BadRow, also for one that two options give."""
    if value is None or value == "":
        return None
    wanted = exact_text("answer", value)
    meanings = [index for index, option in enumerate(options) if option.strip() == wanted.strip()]
    if len(meanings) != 1:
        matches = f"the options {meanings} at once" if meanings else "none of the options"
        raise BadRow(f"answer is {wanted!r}, the text of {matches}; that of one option was wanted")
    return meanings[0]


def without_options(question: str, options: Sequence[str]) -> str:
    """The question without the options that its last lines repeat as "(A) ...": prompts add them. Others stay as they are."""
    asked, mark, rest = question.partition("\n(A)")
    listed = " ".join(f"({letter}) {option}" for letter, option in zip(OPTION_LETTERS, options, strict=False))
    return asked.strip() if asked.strip() and (mark + rest).split() == listed.split() else question
