"""The options of a row and the correct one among them, in the formats of the data sets."""

import re
from collections.abc import Sequence
from typing import Any

from pipeline.datasets.readers.values import BadRow, exact_text, text
from pipeline.option_letters import OPTION_LETTERS

LABEL = re.compile(r"\(?([A-Z])[.):]\s*", re.IGNORECASE)  # "A. ", "A) ", "(A) ", "A: "


def options_of(key: str, values: Any) -> tuple[str, ...]:
    """Return the texts of a list of options, without the letter each may begin with ("A. Apples."), which prompts add.

    Letters are removed once, and only if every option begins with its own: "A. Milne" beside "Poe" is a name. Raises BadRow,
    also for options with permuted letters, where the correct one is ambiguous.
    """
    if not isinstance(values, list) or not 2 <= len(values) <= len(OPTION_LETTERS):
        count = f"{len(values)} options" if isinstance(values, list) else "no list of options"
        raise BadRow(f"{key}: {count}, 2 to {len(OPTION_LETTERS)} were wanted")
    texts = tuple(text(f"{key} {position}", value) for position, value in enumerate(values))
    labels = [label for label in map(LABEL.match, texts) if label]
    letters, expected = [label[1].upper() for label in labels], list(OPTION_LETTERS[: len(texts)])
    if letters == expected:
        return tuple(text(f"{key} {label[1]}", label.string[label.end() :]) for label in labels)
    if sorted(letters) == expected:
        raise BadRow(f"{key} carry the letters {', '.join(letters)}, {', '.join(expected)} were wanted")
    return texts


def of_letter(value: Any, n_options: int) -> int | None:
    """Return the position of the option with this letter ("C", "(C)"); None for no value. Raises BadRow."""
    answer = text("answer", value, "")
    if not answer:
        return None
    letter = answer.strip("().:").upper()
    if len(letter) != 1 or letter not in OPTION_LETTERS[:n_options]:
        raise BadRow(f"answer is {value!r}, a letter from A to {OPTION_LETTERS[n_options - 1]} was wanted")
    return OPTION_LETTERS.index(letter)


def of_text(value: Any, options: Sequence[str]) -> int | None:
    """Return the position of the option with this text; None for no value. Raises BadRow, also if two options have it."""
    if value is None or value == "":
        return None
    answer = exact_text("answer", value)
    matches = [index for index, option in enumerate(options) if option.strip() == answer.strip()]
    if len(matches) != 1:
        owners = f"the options {matches} at once" if matches else "none of the options"
        raise BadRow(f"answer is {answer!r}, the text of {owners}; that of one option was wanted")
    return matches[0]


def without_options(question: str, options: Sequence[str]) -> str:
    """Return the question without the options that its last lines repeat as "(A) ...", which prompts add; else unchanged."""
    stem, separator, rest = question.partition("\n(A)")
    option_lines = " ".join(f"({letter}) {option}" for letter, option in zip(OPTION_LETTERS, options, strict=False))
    return stem.strip() if stem.strip() and (separator + rest).split() == option_lines.split() else question
