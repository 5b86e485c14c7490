"""The answer to one question about one video, as values and as text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.datasets.question import Question
from pipeline.engine.joined import typed_rows_of_all
from pipeline.metrics.accuracy import AnswerRow
from pipeline.metrics.calibration import option_probabilities
from pipeline.selection.keyframes import ChosenFrames
from pipeline.text_table import aligned
from reports.ask_run import AskRun
from stages.generate_answers import AnswerText, GeneratedAnswers

BAR_CELLS = 20


@dataclass(frozen=True)
class OptionProbability:
    """An option and its probability among the options, by the Answerer."""

    text: str
    probability: float
    chosen: bool


@dataclass(frozen=True)
class AskFrame:
    """A sampled frame: its position, the Localizer's score (None if it was not asked), and whether the Answerer read it."""

    seconds: float
    frame_index: int
    probability_yes: float | None
    logit_yes: float | None
    keyframe: bool


@dataclass(frozen=True)
class AskAnswer:
    """The answer to one question.

    Attributes:
        reason: Why there is no answer; empty if there is one.
        probability: Of the chosen option among the options, or of all tokens of the text; None without an answer.
        options: The options in their order; empty for a free-text answer.
        truncated: The question was longer than the model's input.
        artifacts: Ids of the artifacts, by their role.
    """

    video: str
    question: str
    answer: str
    probability: float | None
    reason: str
    options: list[OptionProbability]
    frames: list[AskFrame]
    truncated: bool
    answered_by: str
    artifacts: dict[str, str]

    @property
    def keyframes(self) -> list[AskFrame]:
        """The frames that the Answerer read."""
        return [frame for frame in self.frames if frame.keyframe]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self) | {"keyframes": [asdict(frame) for frame in self.keyframes]}


def answer_of(run: AskRun) -> AskAnswer:
    """Return the answer that a run produced."""
    artifacts = run.artifacts
    (question,) = artifacts.questions.questions()
    (chosen,) = typed_rows_of_all(artifacts.keyframes, "keyframes", artifacts.questions, ChosenFrames)
    options: list[OptionProbability] = []
    if isinstance(artifacts.answers, GeneratedAnswers):
        (generated,) = typed_rows_of_all(artifacts.answers, "answers", artifacts.questions, AnswerText)
        answer, reason, truncated = generated.text, generated.reason, generated.truncated
        probability = float(np.exp(np.sum(generated.log_probabilities))) if not reason else None
    else:
        (row,) = typed_rows_of_all(artifacts.answers, "answers", artifacts.questions, AnswerRow)
        options, reason, truncated = _shares(question, row), row.reason, row.truncated
        best = next((option for option in options if option.chosen), None)
        answer, probability = (best.text, best.probability) if best else ("", None)
    kinds = {name: artifact.id for name, artifact in artifacts._asdict().items() if artifact is not None}
    return AskAnswer(
        *(question.video_id, question.question, answer, probability, str(reason), options),
        *(_frames(run, question, chosen), truncated, run.answered_by, kinds),
    )


def _shares(question: Question, row: AnswerRow) -> list[OptionProbability]:
    if row.reason:
        return []
    pairs = zip(question.options, option_probabilities(row.option_logits).tolist(), strict=True)
    return [OptionProbability(text, share, number == row.prediction) for number, (text, share) in enumerate(pairs)]


def _frames(run: AskRun, question: Question, chosen: ChosenFrames) -> list[AskFrame]:
    frames, scores = run.artifacts.frames, run.artifacts.scores
    clip = frames.clips().get((question.video_id, question.clip_id))
    if clip is None:  # the video could not be read
        return []
    values_at: dict[int, tuple[float | None, ...]] = {}
    if scores is not None:
        table = scores.columns("frame_scores", "position", "probability_yes", "logit_yes")
        values_at = {row[0]: row[1:] for row in zip(*(column.tolist() for column in table.values()), strict=True)}
    keyframes, rows = set(chosen.positions), []
    for position, (seconds, index) in enumerate(zip(clip["seconds"], clip["frame_index"], strict=True)):
        yes, logit = values_at.get(position, (None, None))
        rows.append(AskFrame(float(seconds), int(index), yes, logit, position in keyframes))
    return rows


def answer_text(answer: AskAnswer) -> str:
    """Return the answer as text: the options, the answer, and the keyframes that it is based on."""
    lines = [answer.question, ""]
    if answer.options:
        rows = [_option_row(option) for option in answer.options]
        lines += [*aligned(rows, n_left=3).splitlines(), ""]
    if answer.reason:
        lines += [f"no answer: {answer.reason}"]
    elif answer.options:
        lines += [f"answer: {answer.answer}"]
    else:
        lines += [f"answer: {answer.answer or '(empty)'} ({answer.probability:.1%} for the whole text)"]
    lines += [f"by:     {answer.answered_by}"]
    if answer.truncated:
        lines += ["note:   the question was longer than the model's input; its end was cut"]
    if answer.keyframes:
        lines += ["", f"keyframes, {len(answer.keyframes)} of {len(answer.frames)} sampled frames:"]
        head = ["  time", "frame", "yes", "score"]
        lines += aligned([head, *map(_frame_row, answer.keyframes)]).splitlines()
    return "\n".join(lines)


def _option_row(option: OptionProbability) -> list[str]:
    bar = "#" * round(option.probability * BAR_CELLS)
    return ["->" if option.chosen else "  ", option.text, bar.ljust(BAR_CELLS), f"{option.probability:.1%}"]


def _frame_row(frame: AskFrame) -> list[str]:
    yes = "-" if frame.probability_yes is None else percent_text(frame.probability_yes)
    return [
        f"  {clock(frame.seconds)}",
        str(frame.frame_index),
        yes,
        "-" if frame.logit_yes is None else f"{frame.logit_yes:.2f}",
    ]


def percent_text(share: float) -> str:
    """Return a share in percent with one decimal; a share above 0 is never shown as 0."""
    return "<0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def clock(seconds: float) -> str:
    """Return a time as in video players, with one decimal: 0:04.2, 1:02:03.0."""
    minutes, remainder = divmod(round(seconds * 10) / 10, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{remainder:04.1f}" if hours else f"{minutes}:{remainder:04.1f}"
