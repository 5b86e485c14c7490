"""All prompts and target texts of the models, byte for byte.

A model that was fine-tuned on these texts answers differently if a single space changes, so irregularities of the official
code are kept, each with its reason. Texts of questions and options are used as the data set adapter returns them.
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

# Official sevila.py: the prefix of each frame's visual tokens. Both end in a space, which the T5 tokenizer encodes as a
# separate token ("▁") directly before the visual tokens.
SINGLE_FRAME_PREFIX = "Frame: "
NUMBERED_FRAME_PREFIX = "Frame {number}: "

ANSWER_TARGET = "Option {letter}"  # the Answerer's target; its first token is the word "Option"
SUBTITLES = "subtitles"  # a template's field for the subtitles shown at a frame
LOCALIZE_TARGETS = ("yes", "no")  # the Localizer's targets

# Appended to every prompt of a decoder-only language model that does not end in a colon, as in BLIP-2 with OPT (paper section
# 4.1: "Question: {} Answer:"); the prompts themselves are the official ones.
ANSWER_CUE = "Answer:"

# Official data sets: the instruction after the options. In QVHighlights items it is the whole, unused answering text.
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

# Official VLEP data set, whose items have NEXT_EVENT_QUESTION as question; the Localizer's text has the lettered options.
NEXT_EVENT_INSTRUCTION = "Does the information within the frame provide the necessary details to predict next event?"


def single_frame_prefixes() -> list[str]:
    """Return the prefix of a single frame: of the Localizer, and of the Answerer frame by frame."""
    return [SINGLE_FRAME_PREFIX]


def numbered_frame_prefixes(n_frames: int) -> list[str]:
    """Return the prefixes of several frames, numbered by rank in time from 1, not by frame index."""
    return [NUMBERED_FRAME_PREFIX.format(number=number) for number in range(1, n_frames + 1)]


def frame_prefixes(n_frames: int) -> list[str]:
    """Return the prefixes of an Answerer's frames: as in the official code, numbered if there are several."""
    return single_frame_prefixes() if n_frames == 1 else numbered_frame_prefixes(n_frames)


def answer_target(option_index: int) -> str:
    """Return the target text of the option at `option_index`: 0 gives "Option A", 26 (in no data set) "Option AA"."""
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

    The options are unlettered and in brackets, with a space before the closing one only: the official code appends each option
    with a trailing space.
    """
    return f"Question: {question} Options: ({' '.join(options)} ) {LOCALIZE_INSTRUCTIONS[instruction]}"


def next_event_answer_prompt(question: str, options: Sequence[str]) -> str:
    """Return the Answerer's text for "what happens next" (VLEP). `question`, the same for all items, is not used.

    Unlike `answer_prompt` it has no "Question:" and no instruction.
    """
    return f"{NEXT_EVENT_QUESTION} {lettered_options(options)}"


def next_event_localize_prompt(question: str, options: Sequence[str], instruction: str = DEFAULT_INSTRUCTION) -> str:
    """Return the Localizer's text for "what happens next" (VLEP): the Answerer's text and VLEP's instruction.

    An `instruction` other than the default replaces VLEP's.
    """
    last = NEXT_EVENT_INSTRUCTION if instruction == DEFAULT_INSTRUCTION else LOCALIZE_INSTRUCTIONS[instruction]
    return f"{next_event_answer_prompt(question, options)} {last}"


def moment_answer_prompt(question: str, options: Sequence[str]) -> str:
    """Return the answering text of a moment-retrieval item (QVHighlights), which no model reads."""
    return ANSWER_INSTRUCTION


def moment_localize_prompt(question: str, options: Sequence[str], instruction: str = DEFAULT_INSTRUCTION) -> str:
    """Return the Localizer's text for a moment-retrieval query (QVHighlights). `options` are always yes and no.

    The query ends with a full stop, as do the two options, as in the official pre-training.
    """
    query = question if question.endswith(".") else f"{question}."
    return f"Question: {query} Option A: yes. Option B: no. {LOCALIZE_INSTRUCTIONS[instruction]}"


def open_answer_prompt(question: str, options: Sequence[str]) -> str:
    """Return the Answerer's text for an open question without options (LAVIS, zero-shot VQA)."""
    return f"Question: {question} Short answer:"


def open_localize_prompt(question: str, options: Sequence[str], instruction: str = DEFAULT_INSTRUCTION) -> str:
    """Return the Localizer's text for a question without options: `localize_prompt` without them; not in the paper."""
    return f"Question: {question} {LOCALIZE_INSTRUCTIONS[instruction]}"


@dataclass(frozen=True)
class PromptStyle:
    """The two prompts of one kind of question.

    Attributes:
        answer: (question, options) -> text for the Answerer.
        localize: (question, options, instruction name) -> text for the Localizer.
        is_answered: whether the Answerer chooses one of the options with `answer`.
    """

    answer: Callable[[str, Sequence[str]], str]
    localize: Callable[[str, Sequence[str], str], str]
    is_answered: bool = True


def answering_text(style: str, question: Question) -> str:
    """Return the Answerer's text for a question; `style` is the name of a prompt."""
    return prompt_named(style).answer(question.question, question.options)


def localizing_text(style: str, question: Question, instruction: str) -> str:
    """Return the Localizer's text for a question; `instruction` is a key of `LOCALIZE_INSTRUCTIONS`."""
    return prompt_named(style).localize(question.question, question.options, instruction)


def template_problem(template: str) -> str:
    """Return what is wrong with a custom template of `{question}`, `{options}`, `{subtitles}`; empty if it is valid."""
    try:
        fields = [
            (name, spec, conversion) for _, name, spec, conversion in Formatter().parse(template) if name is not None
        ]
    except ValueError as error:
        return f"{error}; write a literal brace twice"
    for name, spec, conversion in fields:
        if name not in ("question", "options", SUBTITLES) or spec or conversion:
            return f"{{{name}}} is no field; the fields are {{question}}, {{options}} and {{subtitles}}"
    return "" if fields else "it has none of {question}, {options} and {subtitles}: all questions would be the same"


def _checked(template: str) -> str:
    if problem := template_problem(template):
        raise ValueError(problem)
    return template


Template = Annotated[str, AfterValidator(_checked)]  # type of config keys


def has_subtitles(template: str) -> bool:
    """Return whether a valid custom template has the field `{subtitles}`."""
    return any(name == SUBTITLES for _, name, _, _ in Formatter().parse(template))


def template_text(template: str, question: Question, subtitles: str = "") -> str:
    """Return a custom template's text for a question; options are joined by spaces, as in the Localizer's prompt."""
    return template.format(question=question.question, options=" ".join(question.options), subtitles=subtitles)


PROMPT_STYLES = {
    "multiple_choice": PromptStyle(answer_prompt, localize_prompt),
    "next_event": PromptStyle(next_event_answer_prompt, next_event_localize_prompt),
    "moment": PromptStyle(moment_answer_prompt, moment_localize_prompt, is_answered=False),
    "open": PromptStyle(open_answer_prompt, open_localize_prompt, is_answered=False),
}


CUSTOM = "custom"  # a template instead of one of these; see `template_text`


def prompt_named(name: str) -> PromptStyle:
    """Return one of these prompts, or another package's. Raises as `Registry.named`."""
    return ALL_PROMPTS.named(name)


def _problem(value: Any, name: str) -> str:
    if not isinstance(value, PromptStyle):
        return f"a {type(value).__name__}; expected a PromptStyle"
    if problem := call_problem(value.answer, "", ()):
        return f"a PromptStyle whose answer cannot be called with (question, options): {problem}"
    if problem := call_problem(value.localize, "", (), DEFAULT_INSTRUCTION):
        return f"a PromptStyle whose localize cannot be called with (question, options, instruction): {problem}"
    return ""


def _known(name: str) -> str:
    prompt_named(name)
    return name


def _known_or_custom(name: str) -> str:
    return name if name == CUSTOM else _known(name)


def _answered(name: str) -> str:
    if not prompt_named(name).is_answered:
        raise ValueError("is not a prompt for choosing one of several options")
    return name


def _known_instruction(name: str) -> str:
    if name not in LOCALIZE_INSTRUCTIONS:
        known = ", ".join(LOCALIZE_INSTRUCTIONS)
        raise ValueError(f"is no instruction{did_you_mean(name, LOCALIZE_INSTRUCTIONS)}; there are: {known}")
    return name


ALL_PROMPTS = Registry("prompt", "sevila.prompts", lambda: PROMPT_STYLES, _problem)
_ANSWERED = ", ".join(name for name, style in PROMPT_STYLES.items() if style.is_answered)
# Types of config keys: names of prompts and instructions.
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
