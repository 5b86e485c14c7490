"""What is suggested for a word that nothing is called by."""

import pytest

from cache.errors import did_you_mean


@pytest.mark.parametrize(
    ("word", "known", "wanted"),
    [
        ("frams", ["frames_per_second", "frames"], "frames"),
        ("answr", ["init_answerer", "answer_questions"], "answer_questions"),
        ("mult", ["moment", "multiple_choice"], "multiple_choice"),
        ("topk", ["top_k", "spans"], "top_k"),
        ("xyz", ["top_k", "spans"], ""),
        ("top_k", [], ""),
    ],
)
def test_the_known_word_that_is_or_begins_most_like_it_is_suggested(word: str, known: list[str], wanted: str) -> None:
    assert did_you_mean(word, known) == (f" (did you mean {wanted!r}?)" if wanted else "")
