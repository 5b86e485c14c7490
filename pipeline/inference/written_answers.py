"""What a model that writes gives for a question and its pictures: an option, or why there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from pipeline.datasets.question import Question
from pipeline.option_letters import option_lines, parse_option
from pipeline.reasons import Reason

SHOWN_CHARACTERS = 100  # of a reply in a reason

UNPARSED, EMPTY = "unparsed_reply", "empty_reply"
TOO_LONG, REFUSED_PROMPT = "too_long", "refused_prompt"
UNREADABLE = "keyframes_unreadable"  # of the video: what could be sampled cannot be read now
REFUSED, GARBAGE = "refused_by_server", "garbage_from_server"
OF_REPLIES = (UNPARSED, EMPTY, TOO_LONG, REFUSED_PROMPT, REFUSED, GARBAGE)


class WrittenAnswer(NamedTuple):
    """An answer, or the reason why there is none; `text` is the reply as it came, `finish` why it ended, where that is known."""

    reason: Reason = Reason()
    prediction: int | None = None
    log_probabilities: Sequence[float] = ()  # of the options' letters
    text: str = ""
    finish: str = ""
    prompt_tokens: int | None = None
    reply_tokens: int | None = None


class PictureReader(Protocol):
    """Who is asked."""

    suffix: str  # of the pictures that it reads

    def ask(self, question: Question, pictures: Sequence[Path]) -> Callable[[], WrittenAnswer]:
        """Ask about pictures, in time order, and return what waits for the answer; the pictures may be gone by then."""

    def close(self) -> None:
        """Ask no more: what is not answered yet is given up."""


def written_prompt(question: Question, instruction: str) -> str:
    """Return what is asked after the pictures."""
    return "\n".join(filter(None, [question.question, option_lines(question.options), instruction]))


def why_not_asked(question: Question) -> Reason:
    """Return why a question cannot be asked; empty if it can."""
    return Reason() if question.options else Reason("no_options: it asks for moments, not for an option")


def named_option(question: Question, reply: WrittenAnswer) -> WrittenAnswer:
    """Return a reply with the option that it names; one that names none, or several, has a reason: nothing is guessed."""
    if not reply.text.strip():
        return reply._replace(reason=Reason(f"{EMPTY}: the model wrote nothing"))
    number = parse_option(reply.text, question.options)
    if number is None:
        shown = reply.text if len(reply.text) <= SHOWN_CHARACTERS else f"{reply.text[:SHOWN_CHARACTERS]}..."
        cut = f", cut after {reply.reply_tokens} tokens" if reply.finish == "length" else ""
        return reply._replace(reason=Reason(f"{UNPARSED}: names no option, or several{cut}: {shown!r}"))
    return reply._replace(prediction=number)
