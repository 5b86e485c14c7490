"""Answers of models that write replies: the option that a reply names, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from pipeline.datasets.question import Question
from pipeline.option_letters import option_lines, parse_option
from pipeline.reasons import Reason

SHOWN_CHARACTERS = 100  # limit for replies in reasons

UNPARSED, EMPTY = "unparsed_reply", "empty_reply"
TOO_LONG, REFUSED_PROMPT = "too_long", "refused_prompt"
UNREADABLE = "keyframes_unreadable"  # the video was sampled, but cannot be decoded now
REFUSED, GARBAGE = "refused_by_server", "garbage_from_server"
OF_REPLIES = (UNPARSED, EMPTY, TOO_LONG, REFUSED_PROMPT, REFUSED, GARBAGE)


class WrittenAnswer(NamedTuple):
    """An answer, or the reason why there is none."""

    reason: Reason = Reason()
    prediction: int | None = None
    log_probabilities: Sequence[float] = ()  # of the options' letters
    text: str = ""  # the unchanged reply
    finish: str = ""  # why the reply ended; empty if unknown
    prompt_tokens: int | None = None
    reply_tokens: int | None = None


class PictureReader(Protocol):
    """A model that answers questions about pictures."""

    suffix: str  # of the picture files

    def ask(self, question: Question, pictures: Sequence[Path]) -> Callable[[], WrittenAnswer]:
        """Ask about pictures, in time order, and return a function that waits for the answer; it does not need the pictures."""

    def close(self) -> None:
        """Abandon unanswered questions."""


def written_prompt(question: Question, instruction: str) -> str:
    """Return the text after the pictures."""
    return "\n".join(filter(None, [question.question, option_lines(question.options), instruction]))


def why_not_asked(question: Question) -> Reason:
    """Return why a question cannot be asked; empty if it can."""
    return Reason() if question.options else Reason("no_options: it asks for moments, not for an option")


def named_option(question: Question, reply: WrittenAnswer) -> WrittenAnswer:
    """Return a reply with the option that it names, or with a reason if it names none or several."""
    if not reply.text.strip():
        return reply._replace(reason=Reason(f"{EMPTY}: the model wrote nothing"))
    number = parse_option(reply.text, question.options)
    if number is None:
        shown = reply.text if len(reply.text) <= SHOWN_CHARACTERS else f"{reply.text[:SHOWN_CHARACTERS]}..."
        cut = f", cut after {reply.reply_tokens} tokens" if reply.finish == "length" else ""
        return reply._replace(reason=Reason(f"{UNPARSED}: names no option, or several{cut}: {shown!r}"))
    return reply._replace(prediction=number)
