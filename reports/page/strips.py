"""Some questions of a run with the keyframes they were answered from, as Markdown with the pictures inside."""

from __future__ import annotations

from pipeline.engine.joined import typed_rows_of_all
from pipeline.selection.keyframes import ChosenFrames
from pipeline.text_table import Markup, escaped, markdown
from reports.answer_table import AnswerInWords, answers_in_words
from reports.page.runs import ReportedRun
from stages.list_questions import Questions
from stages.make_thumbnails import Thumbnails, VideoThumbnails
from stages.select_keyframes import Keyframes

SHOWN_OF_EACH = 2  # of those answered rightly, wrongly, and without a known answer
KEYFRAMES_SHOWN = 8
EMBEDDED_LETTERS = 300_000  # of all pictures of a page, which a server keeps in its database


def keyframe_strips(run: ReportedRun, thumbnails: Thumbnails) -> str:
    """Return some questions as the run's last setting answered them, each over its keyframes; "" where it has none.

    Pictures beyond a limit of the page are left out.
    """
    setting = run.headline
    if setting.answers is None or setting.keyframes is None:
        return ""
    questions, keyframes = Questions(run.store, setting.questions), Keyframes(run.store, setting.keyframes)
    chosen = {row.question_id: row for row in typed_rows_of_all(keyframes, "keyframes", questions, ChosenFrames)}
    wanted = _examples(answers_in_words(run.store, setting.answers))
    pictures = _pictures_of({answer.video_id for answer in wanted}, thumbnails)
    parts, left = list[str](), EMBEDDED_LETTERS
    for answer in wanted:
        strip = _strip(chosen[answer.question_id], pictures.get(answer.video_id))
        left -= len(strip)
        parts += [_question_and_answer(answer), strip] if strip and left >= 0 else []
    return "\n\n".join([f"## Some questions: {escaped(setting.name)}", *parts]) if parts else ""


def _examples(answers: list[AnswerInWords]) -> list[AnswerInWords]:
    """Return some that were answered, of the first videos: their pictures are found without reading those of all."""
    answered = sorted((answer for answer in answers if not answer.reason), key=lambda answer: answer.video_id)
    kinds = (True, False, None)
    return [each for kind in kinds for each in [a for a in answered if a.correct is kind][:SHOWN_OF_EACH]]


def _pictures_of(video_ids: set[str], thumbnails: Thumbnails) -> dict[str, VideoThumbnails]:
    pictures: dict[str, VideoThumbnails] = {}
    for video in thumbnails.by_video():
        if video.video_id in video_ids:
            pictures[video.video_id] = video
        if len(pictures) == len(video_ids):
            break
    return pictures


def _strip(keyframes: ChosenFrames, video: VideoThumbnails | None) -> str:
    """Return a table of the first keyframes, over each its time and, where frames were ranked, its score."""
    if video is None or not keyframes.rows:
        return ""
    scores = [f", score {score:.2f}" for score in keyframes.scores] or [""] * len(keyframes.rows)
    times = [f"{seconds:.1f} s{score}" for seconds, score in zip(keyframes.seconds, scores, strict=True)]
    cells = [
        Markup(f"![keyframe at {seconds:.1f} s](data:image/webp;base64,{video.images[row]})")
        for seconds, row in zip(keyframes.seconds, keyframes.rows, strict=True)
    ]
    n_more = len(cells) - KEYFRAMES_SHOWN
    more = [f"and {n_more} more"] if n_more > 0 else []
    return markdown([[*times[:KEYFRAMES_SHOWN], *more], [*cells[:KEYFRAMES_SHOWN], *([""] * len(more))]])


def _question_and_answer(answer: AnswerInWords) -> str:
    """Return the question, the answer, and whether it is right."""
    right = {True: "right", False: f"wrong: {answer.right_answer}", None: "the right answer is not known"}
    words = f"{answer.question} → {answer.answer} ({right[answer.correct]}); video {answer.video_id}"
    return str(escaped(words))
