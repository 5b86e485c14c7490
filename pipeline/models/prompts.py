"""Every text the models read or are asked to say, byte for byte.

A model that was fine-tuned on these texts answers differently when a single space moves, so oddities of the official
code are kept, each with its reason beside it. Texts of questions and options go in as the data set adapter gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import Formatter, ascii_uppercase
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from cache.errors import did_you_mean
from pipeline.datasets.question import NEXT_EVENT_QUESTION, Question
from pipeline.registry import Registry, call_problem

# Official sevila.py: the prefix of each frame's visual tokens. Both end in a space, which the T5 tokenizer turns into a
# token of its own ("▁"); the visual tokens follow it directly.
SINGLE_FRAME_PREFIX = "Frame: "
NUMBERED_FRAME_PREFIX = "Frame {number}: "

ANSWER_TARGET = "Option {letter}"  # what the Answerer is trained to say; its first token is the word "Option"
SUBTITLES = "subtitles"  # what a template calls that which is said at a frame
LOCALIZE_TARGETS = ("yes", "no")  # what the Localizer is trained to say

# After every text that a decoder-only language model reads, unless it ends in a colon of its own: what follows is the answer. As
# BLIP-2 asks its OPT (paper section 4.1: "Question: {} Answer:"); the texts themselves are the official ones.
ANSWER_CUE = "Answer:"

# Official data sets: the instruction after the options. QVHighlights items carry it alone, as an unused answering text.
ANSWER_INSTRUCTION = "Considering the information presented in the frame, select the correct answer from the options."

# Paper table 16: the Localizer's instruction. The first is the official code's, with which its weights were trained.
LOCALIZE_INSTRUCTIONS = {
    "necessary_details": (
        "Does the information within the frame provide the necessary details to accurately answer the given question?"
    ),
    "information_needed": "Does the frame have the information needed to answer the question correctly?",
    "necessary_information": (
        "Does the provided frame contain the necessary information to accurately answer the given question?"
    ),
}
DEFAULT_INSTRUCTION = "necessary_details"

# Official VLEP data set, whose items have NEXT_EVENT_QUESTION as theirs; the Localizer's text repeats the lettered options.
NEXT_EVENT_INSTRUCTION = "Does the information within the frame provide the necessary details to predict next event?"


def single_frame_prefixes() -> list[str]:
    """Return the prefix of a frame that is looked at alone: by the Localizer, and by the Answerer frame by frame."""
    return [SINGLE_FRAME_PREFIX]


def numbered_frame_prefixes(n_frames: int) -> list[str]:
    """Return the prefixes of frames that are looked at together: the rank in time, from 1, not the frame's index."""
    return [NUMBERED_FRAME_PREFIX.format(number=number) for number in range(1, n_frames + 1)]


def frame_prefixes(n_frames: int) -> list[str]:
    """Return the prefixes of an Answerer's frames: the official code numbers them only when there are several."""
    return single_frame_prefixes() if n_frames == 1 else numbered_frame_prefixes(n_frames)


def answer_target(option_index: int) -> str:
    """Return the text that names the option at `option_index`: 0 gives "Option A", 26, beyond all data sets, "Option AA"."""
    round_, letter = divmod(option_index, len(ascii_uppercase))
    letters = (ascii_uppercase[round_ - 1] if round_ else "") + ascii_uppercase[letter]
    return ANSWER_TARGET.format(letter=letters)


def lettered_options(options: Sequence[str]) -> str:
    """Return "Option A: ... Option B: ..."."""
    return " ".join(f"{answer_target(index)}: {option}" for index, option in enumerate(options))


def answer_prompt(question: str, options: Sequence[str]) -> str:
    """Return the Answerer's text for a multiple-choice question (official NExT-QA, STAR, How2QA and TVQA)."""
    return f"Question: {question} {lettered_options(options)} {ANSWER_INSTRUCTION}"


def localize_prompt(question: str, options: Sequence[str], instruction: str = DEFAULT_INSTRUCTION) -> str:
    """Return the Localizer's text for a multiple-choice question.

    The options stand unlettered in brackets, with a space before the closing one but none after the opening one: the
    official code appends each option with a trailing space.
    """
    return f"Question: {question} Options: ({' '.join(options)} ) {LOCALIZE_INSTRUCTIONS[instruction]}"


def next_event_answer_prompt(question: str, options: Sequence[str]) -> str:
    """Return the Answerer's text for "what happens next" (VLEP). `question` is not used: it is the same for all items.

    Unlike `answer_prompt` it has no "Question:" in front and no instruction behind.
    """
    return f"{NEXT_EVENT_QUESTION} {lettered_options(options)}"


def next_event_localize_prompt(question: str, options: Sequence[str], instruction: str = DEFAULT_INSTRUCTION) -> str:
    """Return the Localizer's text for "what happens next" (VLEP): the Answerer's, then VLEP's own instruction.

    Another instruction of paper table 16 takes its place if it is asked for.
    """
    last = NEXT_EVENT_INSTRUCTION if instruction == DEFAULT_INSTRUCTION else LOCALIZE_INSTRUCTIONS[instruction]
    return f"{next_event_answer_prompt(question, options)} {last}"


def moment_answer_prompt(question: str, options: Sequence[str]) -> str:
    """Return the answering text of a moment-retrieval item (QVHighlights), which no model is asked."""
    return ANSWER_INSTRUCTION


def moment_localize_prompt(question: str, options: Sequence[str], instruction: str = DEFAULT_INSTRUCTION) -> str:
    """Return the Localizer's text for a moment-retrieval query (QVHighlights). `options` are always yes and no.

    The query gets a full stop if it does not end with one, as do the two options: that is how the official pre-training
    wrote them.
    """
    query = question if question.endswith(".") else f"{question}."
    return f"Question: {query} Option A: yes. Option B: no. {LOCALIZE_INSTRUCTIONS[instruction]}"


def open_answer_prompt(question: str, options: Sequence[str]) -> str:
    """Return the Answerer's text for a question without options, to be answered in words (LAVIS, zero-shot VQA)."""
    return f"Question: {question} Short answer:"


def open_localize_prompt(question: str, options: Sequence[str], instruction: str = DEFAULT_INSTRUCTION) -> str:
    """Return the Localizer's text for a question without options: as with options, without these. Ours; the paper has none."""
    return f"Question: {question} {LOCALIZE_INSTRUCTIONS[instruction]}"


@dataclass(frozen=True)
class PromptStyle:
    """The two texts of one kind of question.

    Attributes:
        answer: (question, options) -> text for the Answerer.
        localize: (question, options, instruction name) -> text for the Localizer.
        is_answered: an Answerer is asked so for one of the options.
    """

    answer: Callable[[str, Sequence[str]], str]
    localize: Callable[[str, Sequence[str], str], str]
    is_answered: bool = True


def answering_text(style: str, question: Question) -> str:
    """Return what the Answerer reads of a question; `style` is the name of a prompt."""
    return prompt_named(style).answer(question.question, question.options)


def localizing_text(style: str, question: Question, instruction: str) -> str:
    """Return what the Localizer reads of a question; `instruction` is a key of `LOCALIZE_INSTRUCTIONS`."""
    return prompt_named(style).localize(question.question, question.options, instruction)


def template_problem(template: str) -> str:
    """Return what is wrong with somebody's own text of `{question}`, `{options}`, `{subtitles}`; empty if nothing is."""
    try:
        fields = [(name, form, how) for _, name, form, how in Formatter().parse(template) if name is not None]
    except ValueError as error:
        return f"{error}; a brace that is meant is written twice"
    for name, form, how in fields:
        if name not in ("question", "options", SUBTITLES) or form or how:
            return f"{{{name}}} is no part of a question; {{question}}, {{options}} and {{subtitles}} are"
    return "" if fields else "none of {question}, {options} and {subtitles} is in it: all questions would be the same"


def _checked(template: str) -> str:
    if problem := template_problem(template):
        raise ValueError(problem)
    return template


Template = Annotated[str, AfterValidator(_checked)]  # a config's key


def has_subtitles(template: str) -> bool:
    """Whether what is said at a frame is part of somebody's own text, which passed `template_problem`."""
    return any(name == SUBTITLES for _, name, _, _ in Formatter().parse(template))


def template_text(template: str, question: Question, subtitles: str = "") -> str:
    """Return somebody's own text about a question; options stand beside each other, as in the Localizer's own text."""
    return template.format(question=question.question, options=" ".join(question.options), subtitles=subtitles)


PROMPT_STYLES = {
    "multiple_choice": PromptStyle(answer_prompt, localize_prompt),
    "next_event": PromptStyle(next_event_answer_prompt, next_event_localize_prompt),
    "moment": PromptStyle(moment_answer_prompt, moment_localize_prompt, is_answered=False),
    "open": PromptStyle(open_answer_prompt, open_localize_prompt, is_answered=False),
}


CUSTOM = "custom"  # somebody's own text in place of one of these; see `template_text`


def prompt_named(name: str) -> PromptStyle:
    """Return one of these prompts, or another package's. Raises as `Registry.named`."""
    return ALL_PROMPTS.named(name)


def _problem(value: Any, name: str) -> str:
    if not isinstance(value, PromptStyle):
        return f"a {type(value).__name__}; a PromptStyle was wanted"
    if problem := call_problem(value.answer, "", ()):
        return f"a PromptStyle whose answer cannot be called with (question, options): {problem}"
    problem = call_problem(value.localize, "", (), DEFAULT_INSTRUCTION)
    return (
        f"a PromptStyle whose localize cannot be called with (question, options, instruction): {problem}"
        if problem
        else ""
    )


def _known(name: str) -> str:
    prompt_named(name)
    return name


def _known_or_custom(name: str) -> str:
    return name if name == CUSTOM else _known(name)


def _answered(name: str) -> str:
    if not prompt_named(name).is_answered:
        raise ValueError("is not a prompt by which an Answerer is asked for an option")
    return name


def _known_instruction(name: str) -> str:
    if name not in LOCALIZE_INSTRUCTIONS:
        known = ", ".join(LOCALIZE_INSTRUCTIONS)
        raise ValueError(f"is no instruction{did_you_mean(name, LOCALIZE_INSTRUCTIONS)}; there are: {known}")
    return name


ALL_PROMPTS = Registry("prompt", "sevila.prompts", lambda: PROMPT_STYLES, _problem)
_ANSWERED = ", ".join(name for name, style in PROMPT_STYLES.items() if style.is_answered)
# Types of config keys: names of the two tables above, and of other packages' prompts.
_KINDS = f"kind of question: {', '.join(PROMPT_STYLES)}, or another package's"
LocalizingPrompt = Annotated[str, AfterValidator(_known), Field(description=_KINDS)]
ScoringPrompt = Annotated[
    str, AfterValidator(_known_or_custom), Field(description=f"{_KINDS}; {CUSTOM}: your own text, the template")
]
AnsweringPrompt = Annotated[
    str, AfterValidator(_answered), Field(description=f"kind of question: {_ANSWERED}, or another package's")
]
Instruction = Annotated[
    str,
    AfterValidator(_known_instruction),
    Field(description=f"wording of the request (paper Table 16): {', '.join(LOCALIZE_INSTRUCTIONS)}"),
]
