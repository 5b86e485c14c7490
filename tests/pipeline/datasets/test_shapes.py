"""The Shapes adapter; its files are tested with the world that writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cache.errors import MissingSourceError
from pipeline.datasets import shapes

ROW = {
    "question_id": "train_000_0",
    "video": "train_000",
    "question": "What colour is the ring?",
    "options": ["red", "blue"],
    "answer": 1,
    "type": "colour",
    "moments": [[1.5, 2.25]],
}


def read(folder: Path, **changes: Any) -> Any:
    (folder / "shapes_train.jsonl").write_text(json.dumps(ROW | changes) + "\n")
    return shapes.read(folder, "train")


def test_a_question_keeps_its_options_answer_and_moments(tmp_path: Path) -> None:
    (question,) = read(tmp_path).questions
    assert (question.options, question.answer_index, question.question_type) == (("red", "blue"), 1, "colour")
    assert [(moment.start_seconds, moment.end_seconds) for moment in question.moments] == [(1.5, 2.25)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"answer": 2}, "answer is 2"), ({"moments": [[1]]}, "moments is"), ({"video": "../x"}, "video is '../x'")],
)
def test_an_invalid_row_is_rejected_with_its_reason(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    annotations = read(tmp_path, **changes)
    assert not annotations.questions
    assert reason in annotations.rejected[0].reason


def test_a_split_without_a_file_is_missing(tmp_path: Path) -> None:
    read(tmp_path)
    with pytest.raises(MissingSourceError, match=r"shapes_val\.jsonl: missing"):
        shapes.read(tmp_path, "val")
