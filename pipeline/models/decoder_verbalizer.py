"""Tokenisation for a decoder-only language model, whose answer is the next word after its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from pipeline.models.prompts import ANSWER_CUE, LOCALIZE_TARGETS
from pipeline.models.verbalizer import MAX_TEXT_TOKENS, TokenizedTexts, Verbalizer

SPACES = ("\u0120", "\u2581")  # a space before a word in byte-level and SentencePiece vocabularies


class DecoderVerbalizer(Verbalizer):
    """The tokenizer file of a decoder-only model that encodes the words needed for scoring as single tokens.

    Attributes:
        start_id: the last token of every prompt, which `tokenize` leaves out: the answer starts after it.
    """

    title = "decoder-only language model"
    example = "facebook/opt-2.7b"

    def __init__(self, path: Path, config: Any) -> None:
        """Args: `config` of the model, with its special tokens. Raises as `Verbalizer`."""
        self._begin_id = config.bos_token_id
        self.end_id = config.eos_token_id
        self.pad_id = self.end_id if config.pad_token_id is None else config.pad_token_id
        super().__init__(path)

    def _find_ids(self, required_letters: int) -> None:
        for name, token_id in (("begins", self._begin_id), ("ends", self.end_id)):
            if self._tokenizer.id_to_token(token_id) is None:
                raise self._error(f"it has no token {token_id}, which {name} texts by config.json")
        self.before_letter, self._special_ids = (), {self.pad_id, self._begin_id, self.end_id}
        yes, no = LOCALIZE_TARGETS
        # SentencePiece adds a space before every text.
        self._space = next((space for space in (" ", "") if self._is_word(space + yes)), " ")
        self.yes_id, self.no_id = self._word_id(yes), self._word_id(no)
        required, others = ascii_uppercase[:required_letters], ascii_uppercase[required_letters:]
        self.letter_ids = tuple(map(self._word_id, (*required, *takewhile(self._is_one, others))))
        self._cue = self._ids(self._space + ANSWER_CUE)
        self.start_id = self._cue[-1]

    def tokenize(self, texts: Sequence[str], max_tokens: int = MAX_TEXT_TOKENS) -> TokenizedTexts:
        """Return the ids of prompts without the last token, which is `start_id` in all.

        "Answer:" is appended to a text that does not end in a colon or is truncated: from the right, to `max_tokens` in total.
        """
        token_ids, truncated = [], []
        for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False):
            ids = [self._begin_id, *encoding.ids]
            prompt = ids if ids[-1] == self.start_id else [*ids, *self._cue]
            is_cut = len(prompt) > max_tokens
            token_ids.append(([*ids[: max_tokens - len(self._cue)], *self._cue] if is_cut else prompt)[:-1])
            truncated.append(is_cut)
        return TokenizedTexts(token_ids, truncated)

    def tokenize_targets(self, texts: Sequence[str], max_tokens: int = MAX_TEXT_TOKENS) -> list[list[int]]:
        """Return the ids of target texts with the end token."""
        encodings = self._tokenizer.encode_batch_fast([self._space + text for text in texts], add_special_tokens=False)
        return [[*encoding.ids[: max_tokens - 1], self.end_id] for encoding in encodings]

    def answer_ids(self, option_index: int) -> list[int]:
        """Return the ids of an option's letter with the end token."""
        return [self.letter_ids[option_index], self.end_id]

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _is_word(self, text: str) -> bool:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        known = {self._tokenizer.token_to_id(space + text.strip()) for space in SPACES} - {None}
        return len(encoding.ids) == 1 and encoding.ids[0] in known

    def _is_one(self, word: str) -> bool:
        return self._is_word(self._space + word)

    def _word_id(self, word: str) -> int:
        if not self._is_one(word):
            raise self._error(
                f'"{word}" after a space is tokenised as {self._tokens(self._space + word)}; expected one token'
            )
        return self._ids(self._space + word)[0]
