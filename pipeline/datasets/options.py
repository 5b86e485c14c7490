"""The options of a row and which of them is right, in the ways that data sets write them."""

import re
from collections.abc import Sequence
from typing import Any

from pipeline.datasets.values import BadRow, text

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LABEL = re.compile(r"\(?([A-Z])[.):]\s*", re.IGNORECASE)  # "A. ", "A) ", "(A) ", "A: "


def options_of(what: str, values: Any) -> tuple[str, ...]:
    """The texts of a list of options, without the letter that each may carry ("A. Apples."): prompts add their own.

    Letters are taken off once, and only if every option begins with its own: "A. Milne" beside "Poe" is a name. Raises BadRow,
    also for options that carry each other's letters, by which nobody knows which one is right.
    """
    if not isinstance(values, list) or not 2 <= len(values) <= len(LETTERS):
        found = f"{len(values)} options" if isinstance(values, list) else "no list of options"
        raise BadRow(f"{what}: {found}, 2 to {len(LETTERS)} were wanted")
    texts = tuple(text(f"{what} {position}", value) for position, value in enumerate(values))
    labels = [label for label in map(LABEL.match, texts) if label]
    letters, wanted = [label[1].upper() for label in labels], list(LETTERS[: len(texts)])
    if letters == wanted:
        return tuple(text(f"{what} {label[1]}", label.string[label.end() :]) for label in labels)
    if sorted(letters) == wanted:
        raise BadRow(f"{what} carry the letters {', '.join(letters)}, {', '.join(wanted)} were wanted")
    return texts


def answer_index(what: str, value: Any, options: Sequence[str], by_position: bool = True) -> int | None:
    """The one option that `value` can mean, by its letter, its text or, where data sets count, its 0-based position.

    None for no value. Raises BadRow; two possible meanings are refused, not ranked.
    """
    n_options = len(options)
    if by_position and isinstance(value, int) and not isinstance(value, bool):
        meanings = {value} & set(range(n_options))
    else:
        answer = text(what, value, "")
        if not answer:
            return None
        meanings = {position for position, option in enumerate(options) if option == answer}
        meanings |= {position for position in range(n_options) if answer == LETTERS[position]}
        meanings |= {position for position in range(n_options) if answer == str(position) and by_position}
    if len(meanings) != 1:
        index = f"an index from 0 to {n_options - 1}, " if by_position else ""
        several = f"; it could mean the options {sorted(meanings)}" if meanings else ""
        wanted = f"{index}a letter from A to {LETTERS[n_options - 1]} or an option's text"
        raise BadRow(f"{what} is {value!r}, {wanted} was wanted{several}")
    return meanings.pop()


def without_options(question: str, options: Sequence[str]) -> str:
    """The question without the options that its last lines repeat as "(A) ...": prompts add them. Others stay as they are."""
    asked, mark, rest = question.partition("\n(A)")
    listed = " ".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
    return asked.strip() if asked.strip() and (mark + rest).split() == listed.split() else question
