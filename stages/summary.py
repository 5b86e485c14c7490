"""What a finished chain tells people: the artifact of every step, what failed and why, and the accuracy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipeline.stage import Artifact
from stages.answer_questions import Answers
from stages.answer_table import answers_in_words
from stages.evaluate import Metrics
from stages.evaluate_localization import LocalizationMetrics
from stages.evaluate_moments import MomentMetrics
from stages.list_questions import Questions
from stages.results import Results, results_text
from stages.sample_frames import Frames

FAILURES_SHOWN = 10
ANSWERS_SHOWN = 3


def summary(made: Sequence[Artifact], found: Artifact | Results) -> str:
    """Return the text that ends a run; `found` is what its chain returned."""
    parts = ["artifacts:", *(f"  {artifact.record.stage:21} {artifact.id}" for artifact in made)]
    is_full = isinstance(found, Results)
    for artifact in made:
        if isinstance(artifact, Questions):
            rejected = [f"{row['file']} line {row['line']}: {row['reason']}" for row in artifact.rows("rejected")]
            parts += _failures("annotation rows rejected", rejected)
        if isinstance(artifact, Frames):
            videos = artifact.rows("videos")
            failed = [f"{video['video_id']}: {video['reason']}" for video in videos if video["status"] != "ok"]
            reasons = Counter(video["reason"].split(":")[0] for video in videos if video["status"] != "ok")
            counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
            parts += _failures(f"of {len(videos)} videos failed ({counts})", failed)
        if is_full:
            continue  # dozens of answers and metrics: one table says it
        if isinstance(artifact, Answers):
            parts += _first_answers(artifact)
        if isinstance(artifact, LocalizationMetrics):
            parts += ["", artifact.text()]
        if isinstance(artifact, (Metrics, MomentMetrics)):
            parts += ["", artifact.text(), "", f"metrics: {artifact.path / 'metrics.json'}"]
    if isinstance(found, Results):
        parts += ["", results_text(found)]
    return "\n".join(parts)


def _first_answers(answers: Answers) -> list[str]:
    rows = [row for row in answers_in_words(answers.store, answers.record.id) if not row["reason"]]
    shown = [f"  {row['question_id']}: {row['question']} -> {row['answer']}" for row in rows[:ANSWERS_SHOWN]]
    return ["", f"first answers (all: `sevila answers {answers.id}`):", *shown] if shown else []


def _failures(what: str, lines: list[str]) -> list[str]:
    if not lines:
        return []
    more = [f"  ... and {len(lines) - FAILURES_SHOWN} more"] if len(lines) > FAILURES_SHOWN else []
    return ["", f"{len(lines)} {what}:", *(f"  {line}" for line in lines[:FAILURES_SHOWN]), *more]
