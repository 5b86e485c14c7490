"""The two ways to read a value per option from the Answerer: its letter, or its text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.datasets.question import Question
from pipeline.inference.not_finite import ANSWERS
from pipeline.models.prompts import answering_text
from pipeline.reasons import Reason

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.answerer import Answerer

Readout = Literal["letter", "text", "text_per_token"]
READOUT_DESCRIPTION = (
    "what is compared between options: the logits of their letters (the paper); or how likely the answer is to be their text, "
    "as the sum or the mean of its tokens' log-probabilities"
)


@dataclass(frozen=True)
class PreparedQuestion:
    """A question as the model reads it; `option_ids` are its options' texts, none where letters are read."""

    question: Question
    token_ids: list[int]
    truncated: bool
    option_ids: list[list[int]]


@dataclass(frozen=True)
class OptionValues:
    """The values read for one question: one per option [n_options], and the greedy first token (letters only)."""

    values: np.ndarray
    first_token_id: int | None

    @property
    def problem(self) -> Reason:
        """Why there is no answer in them; empty if there is one."""
        return self.problem_of("")

    def problem_of(self, frame: str) -> Reason:
        """The same, with which frame's they are: `frame 7: `."""
        if np.isfinite(self.values).all():
            return Reason()
        return Reason(f"{ANSWERS}: {frame}the Answerer gave {self.values.tolist()}")


class OptionReader:
    """Puts questions to the Answerer and reads a value for each of their options; the highest is the answer."""

    def __init__(self, answerer: Answerer, prompt: str, readout: Readout, batch_tokens: int, forced: bool) -> None:
        """Args: `forced`, read letters after the word "Option" whether or not the model begins with it (pseudo-labels)."""
        self.answerer = answerer
        self._words = answerer.language.verbalizer
        self._prompt = prompt
        self._readout = readout
        self._batch_tokens = batch_tokens
        self._forced = forced

    def refusal(self, question: Question) -> Reason:
        """Return why the question cannot be asked, or nothing: there is no letter for each option, as a text has none."""
        n_letters = len(self._words.letter_ids)
        if self._readout != "letter" or len(question.options) <= n_letters:
            return Reason()
        return Reason(f"too_many_options: the tokenizer has single tokens for {n_letters} letters only")

    def prepare(self, questions: Sequence[Question]) -> list[PreparedQuestion]:
        """Return the questions as ids."""
        ids, cut = self._words.tokenize([answering_text(self._prompt, question) for question in questions])
        options: list[list[list[int]]] = [[] for _ in questions]
        if self._readout != "letter":
            options = [self._words.tokenize_targets(question.options) for question in questions]
        return [PreparedQuestion(*asked) for asked in zip(questions, ids, cut, options, strict=True)]

    def ask(self, visual: Tensor, asked: Sequence[PreparedQuestion], frame_prefixes: Sequence[str]) -> Tensor:
        """Return what `values` reads, on the device: of R questions about K frames each, `visual` [R, K, Q, L].

        Float64 [R, 1 + most options]: the first token's id, of which there is none where texts are read, and a value an option.
        """
        import torch

        token_ids = [each.token_ids for each in asked]
        if self._readout == "letter":
            n_options = [len(each.question.options) for each in asked]
            out = self.answerer.answer(visual, token_ids, n_options, frame_prefixes)
            table = out.option_logits_forced if self._forced else out.option_logits
            first = out.first_token_id
        else:
            options = [each.option_ids for each in asked]
            table = self.answerer.option_text_scores(visual, token_ids, options, frame_prefixes, self._batch_tokens)
            first = torch.full((len(asked),), -1, device=table.device)
        return torch.cat([first.double()[:, None], table.double()], dim=1)

    def values(self, table: np.ndarray, asked: Sequence[PreparedQuestion]) -> list[OptionValues]:
        """Return the options' values of R questions by what `ask` returned."""
        values = []
        for first, row, each in zip(table[:, 0].tolist(), table[:, 1:].astype(np.float32), asked, strict=True):
            values.append(OptionValues(self._values(row, each), int(first) if first >= 0 else None))
        return values

    def _values(self, row: np.ndarray, asked: PreparedQuestion) -> np.ndarray:
        values = row[: len(asked.question.options)]
        if self._readout == "text_per_token":
            return values / np.array([len(ids) for ids in asked.option_ids], np.float32)
        return values
