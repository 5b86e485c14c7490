"""What a finished chain tells people: the artifact of every step, what failed and why, and the accuracy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipeline.stage import Artifact
from stages.evaluate import Metrics
from stages.list_questions import Questions
from stages.sample_frames import Frames

FAILURES_SHOWN = 10


def summary(made: Sequence[Artifact]) -> str:
    """Return the text that ends a run."""
    parts = ["artifacts:", *(f"  {artifact.record.stage:18} {artifact.id}" for artifact in made)]
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
        if isinstance(artifact, Metrics):
            parts += ["", artifact.text(), "", f"metrics: {artifact.path / 'metrics.json'}"]
    return "\n".join(parts)


def _failures(what: str, lines: list[str]) -> list[str]:
    if not lines:
        return []
    more = [f"  ... and {len(lines) - FAILURES_SHOWN} more"] if len(lines) > FAILURES_SHOWN else []
    return ["", f"{len(lines)} {what}:", *(f"  {line}" for line in lines[:FAILURES_SHOWN]), *more]
