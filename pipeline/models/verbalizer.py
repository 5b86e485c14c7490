"""Between words and token ids: tokenisation as the official code does it, and the ids that scores are read from."""

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

MAX_TEXT_TOKENS = (
    77  # official `max_txt_len`: BLIP-2's 32 was raised; longer questions lose the end of their instruction
)
SPACE = "▁"  # SentencePiece's mark of a word's beginning, a token by itself at the end of "Frame: "


class TokenizedTexts(NamedTuple):
    """Token ids per text, each ending in `</s>`, and whether the text was cut."""

    token_ids: list[list[int]]
    truncated: list[bool]


class Verbalizer:
    """A T5 tokenizer file, checked to say what scoring needs in single tokens.

    The file is read by the `tokenizers` library itself: classes around it lose the trailing token of "Frame: " in some
    versions, or build a dummy vocabulary where the file is missing.

    Attributes:
        yes_id, no_id: the Localizer's two verdicts ("▁yes", "▁no").
        before_letter: what is said before an option's letter, one token at most: "▁Option", which is also `option_id`.
        letter_ids: "▁A", "▁B", ... for as many letters as are one token each.
        pad_id, end_id: `<pad>`, which is also what T5's decoder starts from, and `</s>`.
    """

    title, example = "Flan-T5", "google/flan-t5-xl"
    before_letter: tuple[int, ...]
    _unsaid: set[int]

    def __init__(self, path: Path, required_letters: int = 5) -> None:
        """Read a `tokenizer.json`.

        Args:
            required_letters: how many letters from A on must be single tokens; the paper's data sets use five.

        Raises:
            CheckpointError: no such file; it splits a word that must be one token, or drops the last one of "Frame: ".
        """
        self.path = path
        self._prefixes: dict[tuple[str, ...], list[list[int]]] = {}
        try:
            self._tokenizer = _read_tokenizer(path, self.title, self.example)
            self._find_ids(required_letters)
        except BaseException as error:
            # The library's, below BaseException: a damaged file can cause it.
            if type(error).__name__ != "PanicException":
                raise
            raise self._error(f"the tokenizers library cannot use it ({error})") from error

    def _find_ids(self, required_letters: int) -> None:
        yes, no = LOCALIZE_TARGETS
        self.yes_id = self._ids_of(yes, [SPACE + yes])[0]
        self.no_id = self._ids_of(no, [SPACE + no])[0]
        self.letter_ids: tuple[int, ...] = ()
        for index, letter in enumerate(ascii_uppercase):
            wanted = [f"{SPACE}Option", SPACE + letter]
            if index >= required_letters and self._tokens(answer_target(index)) != wanted:
                break
            self.option_id, letter_id = self._ids_of(answer_target(index), wanted)
            self.letter_ids += (letter_id,)
        self.before_letter = (self.option_id,)
        self.pad_id = self._special_id("<pad>")
        self.end_id = self._special_id("</s>")
        self._unsaid = {self.pad_id, self.end_id}
        self._check_ends()

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens the file knows; a model has as many embeddings or more."""
        return self._tokenizer.get_vocab_size()

    def tokenize(self, texts: Sequence[str], max_tokens: int = MAX_TEXT_TOKENS) -> TokenizedTexts:
        """Return the ids of `texts`, cut from the right to `max_tokens` with `</s>` kept as the last of them."""
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        whole = [encoding.ids for encoding in encodings]
        cut = [ids if len(ids) <= max_tokens else [*ids[: max_tokens - 1], self.end_id] for ids in whole]
        return TokenizedTexts(cut, [len(ids) > max_tokens for ids in whole])

    def tokenize_targets(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of what is said, the end token last."""
        return self.tokenize(texts).token_ids

    def answer_ids(self, option_index: int) -> list[int]:
        """Return what is said to choose an option, the end token last."""
        return self.tokenize_targets([answer_target(option_index)])[0]

    def tokenize_prefixes(self, prefixes: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts that something follows: without `</s>`."""
        wanted = tuple(prefixes)
        if wanted not in self._prefixes:  # the same few for every batch
            encodings = self._tokenizer.encode_batch_fast(list(wanted), add_special_tokens=False)
            self._prefixes[wanted] = [encoding.ids for encoding in encodings]
        return self._prefixes[wanted]

    def text(self, ids: Sequence[int]) -> str:
        """Return what ids say, without the special tokens, which not every file calls so."""
        without_special = [id for id in ids if id not in self._unsaid]
        return str(self._tokenizer.decode(without_special, skip_special_tokens=True)).strip()

    def pieces(self) -> list[str]:
        """Return every token in the order of ids, "▁" for a space."""
        return [token for token, _ in sorted(self._tokenizer.get_vocab().items(), key=lambda item: item[1])]

    def word_id(self, word: str) -> int:
        """Return the id of a word, or of several, that are one token; raises `CheckpointError` if they are not."""
        return self._ids_of(word, [SPACE + word.replace(" ", SPACE)])[0]

    def _tokens(self, text: str) -> list[str]:
        return self._tokenizer.encode(text, add_special_tokens=False).tokens

    def _ids_of(self, text: str, wanted: list[str]) -> list[int]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        # An unknown word comes back as its own text with the id of <unk>: the ids are compared too.
        if encoding.tokens != wanted or encoding.ids != [self._tokenizer.token_to_id(token) for token in wanted]:
            raise self._error(f'"{text}" is tokenised as {encoding.tokens} {encoding.ids}, wanted {wanted}')
        return encoding.ids

    def _special_id(self, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise self._error(f"it has no {token} token")
        return token_id

    def _check_ends(self) -> None:
        last = self._tokens(SINGLE_FRAME_PREFIX)[-1:]
        if last != [SPACE]:
            raise self._error(f'the last token of "{SINGLE_FRAME_PREFIX}" is {last}, wanted "{SPACE}"')
        if self._tokenizer.encode("yes").ids[-1] != self.end_id:
            raise self._error("it does not end texts with </s>")

    def _error(self, problem: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: {problem}; scores are read from single tokens of a {self.title} tokenizer: "
            "use the tokenizer.json that belongs to the weights"
        )


def _read_tokenizer(path: Path, title: str, example: str) -> Tokenizer:
    if not path.is_file():
        raise CheckpointError(
            f"{path}: not found; a fast tokenizer file is needed (spiece.model alone is tokenised differently): "
            f"copy tokenizer.json of the {title} the weights were made from, for example {example}"
        )
    content = read_model_json(path)
    problem = tokenizer_problem(content)
    if problem:
        raise CheckpointError(f"{path}: {problem}; use the tokenizer.json of a {title} as downloaded")
    return tokenizer_of(path, content)
