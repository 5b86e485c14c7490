"""Generation of free-text answers by the Answerer, for questions without options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.datasets.question import Question
from pipeline.inference.option_reader import OptionValues, PreparedQuestion
from pipeline.models.prompts import answering_text
from pipeline.reasons import Reason

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.answerer import Answerer


class GeneratedText(NamedTuple):
    """A generated text: its tokens, with `</s>` if it was generated, and the log-probability of each."""

    text: str
    token_ids: list[int]
    log_probabilities: list[float]


class TextReader:
    """Asks the Answerer as `OptionReader` does; a question's values are the tokens' ids, then their log-probabilities."""

    def __init__(self, answerer: Answerer, prompt: str, max_tokens: int) -> None:
        self.answerer = answerer
        self._verbalizer = answerer.language.verbalizer
        self._prompt = prompt
        self._max_tokens = max_tokens

    def refusal(self, question: Question) -> Reason:
        """Return an empty reason: any question can be asked."""
        return Reason()

    def prepare(self, questions: Sequence[Question]) -> list[PreparedQuestion]:
        """Return the questions with their token ids."""
        ids, cut = self._verbalizer.tokenize([answering_text(self._prompt, question) for question in questions])
        return [PreparedQuestion(*fields, []) for fields in zip(questions, ids, cut, strict=True)]

    def ask(self, visual: Tensor, prepared: Sequence[PreparedQuestion], frame_prefixes: Sequence[str]) -> Tensor:
        """Return the table for `values`, float64 [R, 2 * max_tokens] on the device; `visual` is [R, K, Q, L]."""
        import torch

        from pipeline.models.generation import generate

        inputs = self.answerer.language.assemble(frame_prefixes, visual, [item.token_ids for item in prepared])
        generated = generate(self.answerer.language, inputs, self._max_tokens)
        return torch.cat([generated.token_ids.double(), generated.log_probabilities.double()], dim=1)

    def values(self, table: np.ndarray, prepared: Sequence[PreparedQuestion]) -> list[OptionValues]:
        """Return the rows of a table of `ask`, on the host."""
        return [OptionValues(row, None) for row in table]

    def text_of(self, values: np.ndarray) -> GeneratedText:
        """Return the text of one question's values."""
        ids = values[: self._max_tokens].astype(np.int64).tolist()
        n_tokens = next((place + 1 for place, id in enumerate(ids) if id == self._verbalizer.end_id), len(ids))
        log_probabilities = values[self._max_tokens :][:n_tokens].tolist()
        return GeneratedText(self._verbalizer.text(ids[:n_tokens]), ids[:n_tokens], log_probabilities)
