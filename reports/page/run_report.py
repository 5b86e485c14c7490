"""The report at the end of a run, and some of its questions with pictures; errors here never fail the run."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from cache.errors import SevilaError, sentence
from pipeline.engine.recipe import Recipe
from pipeline.engine.sources import Sources
from pipeline.engine.steps import Run
from pipeline.selection.keyframes import ChosenFrames
from pipeline.text_table import Markup, escaped, markdown
from reports.answer_table import AnswerInWords, answers_in_words
from reports.page.pictures import thumbnails_of
from reports.page.runs import ReportedRun, run_of_steps
from reports.page.write import no_pin, write_report
from stages.list_questions import Questions
from stages.make_thumbnails import Thumbnails, VideoThumbnails
from stages.select_keyframes import Keyframes

log = logging.getLogger("sevila")
Result = TypeVar("Result")

EXAMPLES_PER_KIND = 2  # right answers, wrong answers, and answers to questions without a known one
KEYFRAMES_SHOWN = 8
MAX_EMBEDDED_CHARACTERS = 300_000  # of all pictures of a page, which the Prefect server keeps in its database


def is_report_wanted() -> bool:
    """Whether to write a report if the command line does not say; SEVILA_REPORT can turn it off."""
    return os.environ.get("SEVILA_REPORT", "").lower() not in ("0", "n", "no", "f", "false")


def report_at_end(
    title: str, recipe: Recipe, steps: Run, sources: Sources, started: datetime, pin: Callable[..., None]
) -> Path | None:
    """Write the report of a run that has just finished and return its path; None, with a warning, if that fails."""

    def write() -> Path:
        since = started.isoformat(timespec="milliseconds")
        run = run_of_steps(title, recipe.name, since, steps.artifacts[0].store, steps.artifacts, steps.settings)
        return write_report([run], sources, pin=pin)

    return _logging_errors(write)


def strips_at_end(recipe: Recipe, steps: Run, sources: Sources) -> str:
    """Return some questions of a finished run with pictures, as Markdown; "" if there are none or that fails."""

    def show() -> str:
        run = run_of_steps("", recipe.name, "", steps.artifacts[0].store, steps.artifacts, steps.settings)
        return keyframe_strips(
            run, thumbnails_of(run.store, run.headline.frames, run.headline.questions, sources, no_pin)
        )

    return _logging_errors(show) or ""


def _logging_errors(work: Callable[[], Result]) -> Result | None:
    try:
        return work()
    except SevilaError as error:
        log.warning("no report: %s", error)
    except OSError as error:
        log.warning("no report: %s", sentence(error))
    except Exception:  # a bug in reports must not fail a run that may have taken days
        log.warning("no report was written, but the run is complete; please report this error:", exc_info=True)
    return None


def keyframe_strips(run: ReportedRun, thumbnails: Thumbnails) -> str:
    """Return some questions, answered in the run's last setting, with their keyframes, as Markdown of limited size."""
    setting = run.headline
    if setting.answers is None or setting.keyframes is None:
        return ""
    questions, keyframes = Questions(run.store, setting.questions), Keyframes(run.store, setting.keyframes)
    chosen = {row.question_id: row for row in keyframes.chosen(questions)}
    examples = _examples(answers_in_words(run.store, setting.answers))
    pictures = _pictures_of({answer.video_id for answer in examples}, thumbnails)
    parts, n_remaining = list[str](), MAX_EMBEDDED_CHARACTERS
    for answer in examples:
        strip = _strip(chosen[answer.question_id], pictures.get(answer.video_id))
        n_remaining -= len(strip)
        parts += [_question_and_answer(answer), strip] if strip and n_remaining >= 0 else []
    return "\n\n".join([f"## Some questions: {escaped(setting.name)}", *parts]) if parts else ""


def _examples(answers: Iterable[AnswerInWords]) -> list[AnswerInWords]:
    """Return some answers about the first videos, whose pictures are read without those of all videos."""
    answered = sorted((answer for answer in answers if not answer.reason), key=lambda answer: answer.video_id)
    kinds = [[answer for answer in answered if answer.correct is correct] for correct in (True, False, None)]
    return [answer for kind in kinds for answer in kind[:EXAMPLES_PER_KIND]]


def _pictures_of(video_ids: set[str], thumbnails: Thumbnails) -> dict[str, VideoThumbnails]:
    pictures: dict[str, VideoThumbnails] = {}
    for video in thumbnails.by_video():
        if video.video_id in video_ids:
            pictures[video.video_id] = video
        if len(pictures) == len(video_ids):
            break
    return pictures


def _strip(keyframes: ChosenFrames, video: VideoThumbnails | None) -> str:
    """Return a table of the first keyframes, each below its time and, if frames were ranked, its score."""
    if video is None or not keyframes.rows:
        return ""
    scores = [f", score {score:.2f}" for score in keyframes.scores] or [""] * len(keyframes.rows)
    times = [f"{seconds:.1f} s{score}" for seconds, score in zip(keyframes.seconds, scores, strict=True)]
    cells = [
        Markup(f"![keyframe at {seconds:.1f} s](data:image/webp;base64,{video.images[row]})")
        for seconds, row in zip(keyframes.seconds, keyframes.rows, strict=True)
    ]
    n_more = len(cells) - KEYFRAMES_SHOWN
    more_header = [f"and {n_more} more"] if n_more > 0 else []
    return markdown([[*times[:KEYFRAMES_SHOWN], *more_header], [*cells[:KEYFRAMES_SHOWN], *([""] * len(more_header))]])


def _question_and_answer(answer: AnswerInWords) -> str:
    """Return the question, the answer, and whether it is right."""
    verdicts = {True: "right", False: f"wrong: {answer.right_answer}", None: "the right answer is not known"}
    return str(escaped(f"{answer.question} → {answer.answer} ({verdicts[answer.correct]}); video {answer.video_id}"))
