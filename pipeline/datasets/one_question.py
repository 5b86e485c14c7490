"""One question as an annotation file for the data set `plain` if it has options, else for `open_questions`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cache.errors import SevilaError
from pipeline.datasets import open_questions, plain
from pipeline.datasets.adapter import Adapter
from pipeline.datasets.question import Question


def write_question(path: Path, video: str, question: str, options: Sequence[str]) -> str:
    """Write the file, deterministically, and return the name of the data set that reads it.

    Raises:
        SevilaError: the question cannot be asked; the message states why.
    """
    row = {"video": video, "question": question, "options": list(options)}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    adapter: Adapter = plain if options else open_questions
    annotations = adapter.read(path, "")
    if annotations.rejected:
        raise SevilaError(f"this cannot be asked: {annotations.rejected[0].reason}")
    written: Question = annotations.questions[0]
    if written.video_id != video:  # blanks at its ends
        raise SevilaError(f"{video!r}: a video whose name begins or ends with a blank cannot be named; rename it")
    return adapter.name
