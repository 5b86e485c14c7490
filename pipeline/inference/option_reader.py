"""The values of a question's options from the Answerer: by their letters or by their texts."""

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
    "value compared between options: the logit of the letter (the paper), or the sum or mean of the log-probabilities of the "
    "text's tokens"
)


@dataclass(frozen=True)
class PreparedQuestion:
    """A question with its prompt as token ids; `option_ids` are the options' texts, empty if letters are read."""

    question: Question
    token_ids: list[int]
    truncated: bool
    option_ids: list[list[int]]


@dataclass(frozen=True)
class OptionValues:
    """The values of one question's options [n_options], and the greedy first token (letters only)."""

    values: np.ndarray
    first_token_id: int | None

    def problem_of(self, frame: str = "") -> Reason:
        """Return why the values give no answer, empty if they do; `frame` is a prefix of the details, such as "frame 7: "."""
        if np.isfinite(self.values).all():
            return Reason()
        return Reason(f"{ANSWERS}: {frame}the Answerer gave {self.values.tolist()}")


class OptionReader:
    """Asks the Answerer for a value for each option of a question; the highest is the answer."""

    def __init__(self, answerer: Answerer, prompt: str, readout: Readout, batch_tokens: int, forced: bool) -> None:
        """Args: `forced`: read letters after the word "Option" even if the model starts otherwise (pseudo-labels)."""
        self.answerer = answerer
        self._verbalizer = answerer.language.verbalizer
        self._prompt = prompt
        self._readout = readout
        self._batch_tokens = batch_tokens
        self._forced = forced

    def refusal(self, question: Question) -> Reason:
        """Return why the question cannot be asked, for lack of letters; empty if it can."""
        n_letters = len(self._verbalizer.letter_ids)
        if self._readout != "letter" or len(question.options) <= n_letters:
            return Reason()
        return Reason(f"too_many_options: the tokenizer has single tokens for {n_letters} letters only")

    def prepare(self, questions: Sequence[Question]) -> list[PreparedQuestion]:
        """Return the questions with their token ids."""
        ids, cut = self._verbalizer.tokenize([answering_text(self._prompt, question) for question in questions])
        options: list[list[list[int]]] = [[] for _ in questions]
        if self._readout != "letter":
            options = [self._verbalizer.tokenize_targets(question.options) for question in questions]
        return [PreparedQuestion(*fields) for fields in zip(questions, ids, cut, options, strict=True)]

    def ask(self, visual: Tensor, prepared: Sequence[PreparedQuestion], frame_prefixes: Sequence[str]) -> Tensor:
        """Return the table for `values` of R questions about K frames each, `visual` [R, K, Q, L], on the device.

        Float64 [R, 1 + max options]: the first token's id, -1 if texts are read, and a value per option.
        """
        import torch

        token_ids = [item.token_ids for item in prepared]
        if self._readout == "letter":
            n_options = [len(item.question.options) for item in prepared]
            out = self.answerer.answer(visual, token_ids, n_options, frame_prefixes, self._forced)
            table, first = out.option_logits, out.first_token_id
        else:
            options = [item.option_ids for item in prepared]
            table = self.answerer.option_text_scores(visual, token_ids, options, frame_prefixes, self._batch_tokens)
            first = torch.full((len(prepared),), -1, device=table.device)
        return torch.cat([first.double()[:, None], table.double()], dim=1)

    def values(self, table: np.ndarray, prepared: Sequence[PreparedQuestion]) -> list[OptionValues]:
        """Return the options' values of R questions from a table of `ask`, on the host."""
        rows = zip(table[:, 0].tolist(), table[:, 1:].astype(np.float32), prepared, strict=True)
        return [OptionValues(self._values(row, question), int(id) if id >= 0 else None) for id, row, question in rows]

    def _values(self, row: np.ndarray, prepared: PreparedQuestion) -> np.ndarray:
        values = row[: len(prepared.question.options)]
        if self._readout == "text_per_token":
            return values / np.array([len(ids) for ids in prepared.option_ids], np.float32)
        return values
