"""The suggestion for an unknown word."""

import pytest

from cache.errors import did_you_mean


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("frams", ["frames_per_second", "frames"], "frames"),
        ("answr", ["init_answerer", "answer_questions"], "answer_questions"),
        ("mult", ["moment", "multiple_choice"], "multiple_choice"),
        ("topk", ["top_k", "spans"], "top_k"),
        ("xyz", ["top_k", "spans"], ""),
        ("top_k", [], ""),
    ],
)
def test_the_closest_known_word_is_suggested(word: str, known: list[str], expected: str) -> None:
    assert did_you_mean(word, known) == (f" (did you mean {expected!r}?)" if expected else "")
