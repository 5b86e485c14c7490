"""Tokenisation as in the official code, and the ids of the tokens whose logits are scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import NamedTuple

from tokenizers import Tokenizer

from cache.errors import CheckpointError
from pipeline.checkpoint_files import read_model_json
from pipeline.models.prompts import LOCALIZE_TARGETS, SINGLE_FRAME_PREFIX, answer_target
from pipeline.models.tokenizer_file import tokenizer_of, tokenizer_problem

MAX_TEXT_TOKENS = 77  # official `max_txt_len` (BLIP-2: 32); longer questions lose the end of their instruction
SPACE = "▁"  # SentencePiece's mark of a word's start, a separate token at the end of "Frame: "


class TokenizedTexts(NamedTuple):
    """Token ids per text, each ending in `</s>`, and whether the text was cut."""

    token_ids: list[list[int]]
    truncated: list[bool]


class Verbalizer:
    """A T5 tokenizer file that encodes the words needed for scoring as single tokens.

    The `tokenizers` library reads the file directly: wrapper classes lose the trailing token of "Frame: " in some versions, or
    build a dummy vocabulary if the file is missing.

    Attributes:
        yes_id, no_id: the Localizer's answers ("▁yes", "▁no").
        before_letter: at most one token before an option's letter: "▁Option", which is also `option_id`.
        letter_ids: "▁A", "▁B", ... up to the first letter that is no single token.
        pad_id, end_id: `<pad>`, also the start token of T5's decoder, and `</s>`.
    """

    title, example = "Flan-T5", "google/flan-t5-xl"
    before_letter: tuple[int, ...]
    _special_ids: set[int]

    def __init__(self, path: Path, required_letters: int = 5) -> None:
        """Read a `tokenizer.json`.

        Args:
            required_letters: how many letters from A on must be single tokens; the paper's data sets use five.

        Raises:
            CheckpointError: the file is missing, splits a word that must be one token, or drops the last token of "Frame: ".
        """
        self.path = path
        self._prefixes: dict[tuple[str, ...], list[list[int]]] = {}
        try:
            self._tokenizer = _read_tokenizer(path, self.title, self.example)
            self._find_ids(required_letters)
        except BaseException as error:
            # A damaged file can cause the library's PanicException, a subclass of BaseException.
            if type(error).__name__ != "PanicException":
                raise
            raise self._error(f"the tokenizers library cannot use it ({error})") from error

    def _find_ids(self, required_letters: int) -> None:
        yes, no = LOCALIZE_TARGETS
        self.yes_id = self._ids_of(yes, [SPACE + yes])[0]
        self.no_id = self._ids_of(no, [SPACE + no])[0]
        self.letter_ids: tuple[int, ...] = ()
        for index, letter in enumerate(ascii_uppercase):
            expected = [f"{SPACE}Option", SPACE + letter]
            if index >= required_letters and self._tokens(answer_target(index)) != expected:
                break
            self.option_id, letter_id = self._ids_of(answer_target(index), expected)
            self.letter_ids += (letter_id,)
        self.before_letter = (self.option_id,)
        self.pad_id = self._special_id("<pad>")
        self.end_id = self._special_id("</s>")
        self._special_ids = {self.pad_id, self.end_id}
        self._check_ends()

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens in the file; a model has as many embeddings or more."""
        return self._tokenizer.get_vocab_size()

    def tokenize(self, texts: Sequence[str], max_tokens: int = MAX_TEXT_TOKENS) -> TokenizedTexts:
        """Return the ids of `texts`, truncated from the right to `max_tokens` including the final `</s>`."""
        ids_of_texts = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        cut = [ids if len(ids) <= max_tokens else [*ids[: max_tokens - 1], self.end_id] for ids in ids_of_texts]
        return TokenizedTexts(cut, [len(ids) > max_tokens for ids in ids_of_texts])

    def tokenize_targets(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of target texts with the end token."""
        return self.tokenize(texts).token_ids

    def answer_ids(self, option_index: int) -> list[int]:
        """Return the ids of an option's target text with the end token."""
        return self.tokenize_targets([answer_target(option_index)])[0]

    def tokenize_prefixes(self, prefixes: Sequence[str]) -> list[list[int]]:
        """Return the ids of prefixes without `</s>`."""
        key = tuple(prefixes)
        if key not in self._prefixes:  # all batches use the same few
            encodings = self._tokenizer.encode_batch_fast(list(key), add_special_tokens=False)
            self._prefixes[key] = [encoding.ids for encoding in encodings]
        return self._prefixes[key]

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of ids without special tokens, which not every file marks as such."""
        without_special = [id for id in ids if id not in self._special_ids]
        return str(self._tokenizer.decode(without_special, skip_special_tokens=True)).strip()

    def pieces(self) -> list[str]:
        """Return all tokens in the order of ids, with "▁" for a space."""
        return [token for token, _ in sorted(self._tokenizer.get_vocab().items(), key=lambda item: item[1])]

    def word_id(self, word: str) -> int:
        """Return the id of a word, or several words, that are a single token; raise `CheckpointError` if they are not."""
        return self._ids_of(word, [SPACE + word.replace(" ", SPACE)])[0]

    def _tokens(self, text: str) -> list[str]:
        return self._tokenizer.encode(text, add_special_tokens=False).tokens

    def _ids_of(self, text: str, expected: list[str]) -> list[int]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        # The ids too: an unknown word is returned as its own text with the id of <unk>.
        if encoding.tokens != expected or encoding.ids != [self._tokenizer.token_to_id(token) for token in expected]:
            raise self._error(f'"{text}" is tokenised as {encoding.tokens} {encoding.ids}; expected {expected}')
        return encoding.ids

    def _special_id(self, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise self._error(f"it has no {token} token")
        return token_id

    def _check_ends(self) -> None:
        last = self._tokens(SINGLE_FRAME_PREFIX)[-1:]
        if last != [SPACE]:
            raise self._error(f'the last token of "{SINGLE_FRAME_PREFIX}" is {last}; expected "{SPACE}"')
        if self._tokenizer.encode("yes").ids[-1] != self.end_id:
            raise self._error("it does not end texts with </s>")

    def _error(self, problem: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: {problem}; scoring needs the single tokens of a {self.title} tokenizer: "
            "use the tokenizer.json that belongs to the weights"
        )


def _read_tokenizer(path: Path, title: str, example: str) -> Tokenizer:
    if not path.is_file():
        raise CheckpointError(
            f"{path}: not found; a fast tokenizer file is required (spiece.model gives other tokens): "
            f"copy tokenizer.json of the weights' {title}, for example {example}"
        )
    content = read_model_json(path)
    if problem := tokenizer_problem(content):
        raise CheckpointError(f"{path}: {problem}; use the tokenizer.json of a {title} as downloaded")
    return tokenizer_of(path, content)
