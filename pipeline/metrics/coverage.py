"""Coverage: the share of questions that could be asked, and the videos that prevented the others."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cache.printable import counted, printable
from pipeline.reasons import Reason


@dataclass(frozen=True)
class CoverageRow:
    """Questions that share a `reason`: the code of a failure, or "" for those asked; and their videos.

    A video counts once: as asked if any of its questions was, else under the most frequent reason of its questions.
    """

    reason: str
    n_questions: int  # with this reason
    questions_percent: float  # of all questions, including those without a known answer
    n_videos: int  # counted under this reason


@dataclass(frozen=True)
class MissingVideo:
    """A video that could not be used, with `reason` as `code: details`, and the number of its unanswered questions."""

    video_id: str
    reason: Reason
    n_questions: int  # about it


def coverage(questions: Iterable[tuple[str, str]]) -> tuple[list[CoverageRow], list[MissingVideo]]:
    """Return the rows by reason, asked questions first and then by frequency, and the missing videos by reason.

    `questions` has a (video_id, reason) for each question; the reason is empty if the video could be read.
    """
    counts = Counter(questions)
    n_questions, codes_by_video = Counter({"": 0}), defaultdict[str, Counter[str]](Counter)
    for (video_id, reason), n in counts.items():
        code = Reason(reason).code
        n_questions[code] += n
        codes_by_video[video_id][code] += n
    n_videos = Counter(
        "" if "" in codes else min(codes, key=lambda code: (-codes[code], code)) for codes in codes_by_video.values()
    )
    total = n_questions.total()
    rows = [
        CoverageRow(code, n, 100 * n / total if total else 0.0, n_videos[code])
        for code, n in sorted(n_questions.items(), key=lambda item: (item[0] != "", -item[1], item[0]))
    ]
    missing = [MissingVideo(video_id, Reason(reason), n) for (video_id, reason), n in sorted(counts.items()) if reason]
    return rows, missing


def format_coverage(rows: Sequence[CoverageRow]) -> str:
    """Return one line: "coverage: 24 of 30 questions (80.0 %), 8 of 10 videos; 3 questions empty (10.0 %), ..."."""
    asked_row = rows[0]
    n_questions, n_videos = sum(row.n_questions for row in rows), sum(row.n_videos for row in rows)
    line = f"coverage: {asked_row.n_questions:,} of {counted(n_questions, 'questions')} ({asked_row.questions_percent:.1f} %)"
    line += f", {asked_row.n_videos:,} of {counted(n_videos, 'videos')}"
    lost = [f"{row.n_questions:,} {printable(row.reason)} ({row.questions_percent:.1f} %)" for row in rows[1:]]
    return line + (f"; questions not asked: {', '.join(lost)}" if lost else "")
