"""Options by letter, for generative models: prompts and parsing. Copied into harness tasks, hence standard library only."""

from __future__ import annotations

import re
from collections.abc import Sequence

OPTION_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
INSTRUCTION = "Answer with the option's letter from the given choices directly."

# Characters allowed around a letter, and what must follow it: in "A man ..." and "A or B" it is not an answer.
_OPEN, _CLOSE = r"[\s*_\"'`(\[{]*", r"[\s*_\"'`)\]}]*"
_ENDS = r"(?=[.,:;)\]}*_\"'`!\n]|\s*$)"
_LEAD = (
    r"(?:(?:the\s+)?(?:(?:best|correct|right|final|my)\s+)?(?:answer|option|choice)(?:\s+is)?\s*:?\s*(?:option\s+)?)"
)
_FIRST = re.compile(rf"{_OPEN}{_LEAD}?{_OPEN}(?P<letter>[A-Z]){_ENDS}{_CLOSE}", re.IGNORECASE)
_NAMED = re.compile(rf"\b{_LEAD}{_OPEN}(?P<letter>(?-i:[A-Z])){_ENDS}{_CLOSE}", re.IGNORECASE)
_ALONE = re.compile(r"\b(?:[B-HJ-Z]|[AI](?=\s*(?:[.,:;)\]]|$)))(?!\w|['’])")


def option_lines(options: Sequence[str]) -> str:
    """Return the options as text, one per line, each preceded by its letter."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(OPTION_LETTERS, options, strict=False))


def parse_option(text: str, options: Sequence[str]) -> int | None:
    """Return the index of the option that a reply names by letter or full text; None if it names none or several.

    Ambiguous replies give None. Text before `</think>` is ignored.
    """
    reply = text.rpartition("</think>")[2].strip()
    same = [number for number, option in enumerate(options) if _plain(option) == _plain(reply)]
    if len(same) == 1 and _plain(reply).upper() not in {"", *OPTION_LETTERS}:
        return same[0]
    known = OPTION_LETTERS[: len(options)]
    first = _FIRST.match(reply)
    named = [first] if first else list(_NAMED.finditer(reply))
    letters = {match["letter"].upper() for match in named}
    if len(letters) != 1 or not letters <= set(known):
        return None
    number, rest = known.index(letters.pop()), reply[named[-1].end() :].lstrip(" .,:;")
    if rest and _plain(rest) == _plain(options[number]):
        return number
    others = {letter[0] for letter in _ALONE.findall(rest)} & set(known) - {known[number]}
    return None if others else number


def _plain(text: str) -> str:
    """Return a text in lower case, without punctuation."""
    return re.sub(r"[\W_]+", " ", text).strip().casefold()
