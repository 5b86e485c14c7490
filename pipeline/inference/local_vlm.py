"""Answers of an image-text-to-text model in a local folder, by letters' likelihoods or by replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.datasets.question import Question
from pipeline.inference.not_finite import ANSWERS
from pipeline.inference.written_answers import REFUSED_PROMPT, TOO_LONG, WrittenAnswer, named_option, written_prompt
from pipeline.option_letters import OPTION_LETTERS
from pipeline.reasons import Reason

if TYPE_CHECKING:
    from pipeline.models.image_text import ImageTextModel

LetterReadout = Literal["likelihood", "generation"]


class LocalVlm:
    """Asks one question at a time, so that answers do not depend on a batch; loads the model at the first question."""

    suffix = ".png"

    def __init__(
        self, load: Callable[[], ImageTextModel], readout: LetterReadout, instruction: str, max_new_tokens: int
    ) -> None:
        self._load, self._readout = load, readout
        self._instruction, self._max_new_tokens = instruction, max_new_tokens

    @cached_property
    def _model(self) -> ImageTextModel:
        return self._load()

    def ask(self, question: Question, pictures: Sequence[Path]) -> Callable[[], WrittenAnswer]:
        """Answer a question, and return a function that returns the answer."""
        answer = self._answer(question, pictures)
        return lambda: answer

    def close(self) -> None:
        """Do nothing: no question is pending."""

    def _answer(self, question: Question, pictures: Sequence[Path]) -> WrittenAnswer:
        try:
            inputs = self._model.inputs(written_prompt(question, self._instruction), pictures)
        except ValueError as error:  # for example the question contains the model's placeholder for a picture
            return WrittenAnswer(Reason(f"{REFUSED_PROMPT}: the model's processor says: {str(error).splitlines()[0]}"))
        n_tokens = int(inputs["input_ids"].shape[1])
        answer = WrittenAnswer(prompt_tokens=n_tokens)
        new_tokens = self._max_new_tokens if self._readout == "generation" else 0
        most = self._model.most_tokens
        if most is not None and n_tokens + new_tokens > most:
            fix = "choose fewer keyframes or a smaller height"
            return answer._replace(reason=Reason(f"{TOO_LONG}: {n_tokens} tokens, the model reads {most}: {fix}"))
        return (
            self._by_letters(question, inputs, answer) if not new_tokens else self._by_reply(question, inputs, answer)
        )

    def _by_letters(self, question: Question, inputs: dict[str, Any], answer: WrittenAnswer) -> WrittenAnswer:
        values = self._model.letters(inputs, OPTION_LETTERS[: len(question.options)])
        if not np.isfinite(values).all():
            return answer._replace(reason=Reason(f"{ANSWERS}: the letters' log-probabilities"))
        return answer._replace(prediction=int(values.argmax()), log_probabilities=values.tolist())

    def _by_reply(self, question: Question, inputs: dict[str, Any], answer: WrittenAnswer) -> WrittenAnswer:
        text, n_tokens = self._model.write(inputs, self._max_new_tokens)
        finish = "length" if n_tokens == self._max_new_tokens else "stop"
        return named_option(question, answer._replace(text=text, finish=finish, reply_tokens=n_tokens))
